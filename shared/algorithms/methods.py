"""The learning methods by name, and how one is made from public settings.

Both ends make their half from the same settings, which travel with every order.
"""

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.algorithms.averaging import Averaging, AveragingConfig
from shared.algorithms.base import Algorithm
from shared.algorithms.gradient import Gradient, GradientConfig
from shared.algorithms.gram import Gram, GramConfig, gram_head_size
from shared.algorithms.ials import Ials, IalsConfig
from shared.algorithms.measured import Measured
from shared.algorithms.popularity import Popularity, PopularityConfig
from shared.algorithms.transitions import (
    Transitions,
    TransitionsTraining,
    head_size,
    keeps_order,
)
from shared.errors import ConfigError
from shared.models.base import Model
from shared.models.bilinear import BilinearModel
from shared.models.linear import Linear
from shared.models.mf import MatrixFactorization
from shared.models.ncf import NCFModel
from shared.models.popularity import PopularityModel
from shared.models.sequence import SequenceModel
from shared.models.transitions import TransitionsModel
from shared.models.two_tower import TwoTowerModel
from shared.models.vae import VAEModel
from shared.models.zoo import MODELS
from shared.privacy.plan import PrivacyConfig, Trust, Unit

__all__ = ["ALGORITHMS", "WHOLE_USERS", "build", "check_unit", "measured", "sized"]


def _averaging(config: AveragingConfig, model: Model, n_items: int) -> Algorithm:
    if not isinstance(model, MatrixFactorization):
        raise ConfigError("algorithm=averaging learns model=mf; choose that model.")
    return Averaging(model=model, config=config)


def _gram(config: GramConfig, model: Model, n_items: int) -> Algorithm:
    if not isinstance(model, Linear):
        raise ConfigError("algorithm=gram learns model=ease or item-knn; choose one of them.")
    return Gram(model=model, config=config)


def _ials(config: IalsConfig, model: Model, n_items: int) -> Algorithm:
    if not isinstance(model, MatrixFactorization):
        raise ConfigError("algorithm=ials learns model=mf; choose that model.")
    squared = replace(model, config=replace(model.config, fit="squares"))
    return Ials(model=squared, config=config)


LEARNED = (BilinearModel, NCFModel, SequenceModel, TwoTowerModel, VAEModel)
"""What gradients learn: `tasks.Learned`, whose protocol cannot be asked for by name."""


def _gradient(config: GradientConfig, model: Model, n_items: int) -> Algorithm:
    if not isinstance(model, LEARNED):
        names = "bilinear, gru, ncf, sasrec, two-tower or vae"
        raise ConfigError(f"algorithm=gradient learns model={names}; choose one of them.")
    examples = config.examples
    if isinstance(model, VAEModel) and (examples.candidates or examples.smoothing):
        raise ConfigError(
            "model=vae tells the whole catalogue: set algorithm.examples.candidates=0 and "
            "algorithm.examples.smoothing=0."
        )
    return Gradient(model=model, config=config)


def _popularity(config: PopularityConfig, model: Model, n_items: int) -> Algorithm:
    if not isinstance(model, PopularityModel):
        raise ConfigError("algorithm=popularity learns model=popularity; choose that model.")
    return Popularity(n_items=n_items, config=config)


def _transitions(config: TransitionsTraining, model: Model, n_items: int) -> Algorithm:
    if not isinstance(model, TransitionsModel):
        raise ConfigError("algorithm=transitions learns model=transitions; choose that model.")
    return Transitions(model=model, config=config)


ALGORITHMS: dict[str, tuple[type, Callable[[Any, Model, int], Algorithm]]] = {
    "averaging": (AveragingConfig, _averaging),
    "gradient": (GradientConfig, _gradient),
    "gram": (GramConfig, _gram),
    "ials": (IalsConfig, _ials),
    "popularity": (PopularityConfig, _popularity),
    "transitions": (TransitionsTraining, _transitions),
}
"""Name -> (settings, maker of settings, model and catalogue size)."""

HEADS: dict[str, tuple[str, Callable[[float, int], int]]] = {
    "ease": ("model.head", gram_head_size),
    "ials": ("algorithm.head", gram_head_size),
    "item-knn": ("model.head", gram_head_size),
    "transitions": ("model.head", head_size),
}
"""Model or algorithm -> setting of the head of its private runs, and its rule."""

WHOLE_USERS = frozenset({"gradient", "gram", "ials", "transitions"})
"""Methods in which one interaction is in many examples: they protect whole users or nobody."""


def check_unit(algorithm: str, unit: Unit) -> None:
    """Refuse a method that cannot protect the unit that is asked for.

    Raises:
        ConfigError: One interaction is to be protected, and one is in many of its examples.
    """
    if unit is Unit.INTERACTION and algorithm in WHOLE_USERS:
        raise ConfigError(
            f"algorithm={algorithm} cannot protect one interaction, which is in many of its "
            "examples: use privacy.unit='user', or 'none'."
        )


def build(
    model: str,
    algorithm: str,
    settings: Mapping[str, object],
    n_items: int,
    *,
    features: NDArray[np.float64] | None = None,
) -> Algorithm:
    """Return the learning method that public settings describe.

    Args:
        model: A key of `MODELS`.
        algorithm: A key of `ALGORITHMS`.
        settings: Flat dotted settings, `model.*` and `algorithm.*`.
        n_items: Size of the catalogue.
        features: float64 [n_items, any], public item content; only a starting server has it.

    Raises:
        ConfigError: A name is unknown, a setting is unknown or impossible, or the two do not fit.
    """
    if model not in MODELS or algorithm not in ALGORITHMS:
        raise ConfigError(f"Unknown model={model} with algorithm={algorithm}; update this device.")
    model_config, make_model = MODELS[model]
    algorithm_config, make_algorithm = ALGORITHMS[algorithm]
    made = make_model(_configured(model_config(), settings, "model"), n_items, features)
    return make_algorithm(_configured(algorithm_config(), settings, "algorithm"), made, n_items)


def measured(algorithm: Algorithm, *, rounds: int, share: float) -> Algorithm:
    """Return the method with a last round in which devices measure, where that has a share.

    Raises:
        ConfigError: There is no round left to learn in.
    """
    return Measured(inner=algorithm, rounds=rounds, share=share) if share else algorithm


def sized(
    model: str,
    settings: Mapping[str, object],
    *,
    users: int,
    n_items: int,
    privacy: PrivacyConfig,
) -> Mapping[str, object]:
    """Return the settings with what a rule leaves to the population and the budget filled in.

    Private transitions, Gram statistics and least squares take the size of the head, and whether
    order is kept, from the number of users, epsilon and delta: public numbers, decided before any
    data is looked at.

    Args:
        model: A key of `MODELS`.
        settings: Flat dotted settings, `model.*` and `algorithm.*`; what they set stays.
        users: Users of the population.
        n_items: Size of the catalogue.
        privacy: What is asked for.
    """
    named = HEADS.get(model) or HEADS.get(str(settings.get("algorithm.name")))
    if named is None or privacy.unit is not Unit.USER:
        return settings
    from shared.privacy.calibration import default_delta, noise_multiplier

    delta = privacy.delta or default_delta(users)
    noise = noise_multiplier(epsilon=privacy.epsilon, delta=delta, sampling_rate=1.0, steps=1)
    strength = (math.sqrt(users) if privacy.trust is Trust.LOCAL else users) / noise
    filled = dict(settings)
    head, rule = named
    if not filled.get(head):
        filled[head] = rule(strength, n_items)
    if model == "transitions" and filled.get("algorithm.order", "auto") == "auto":
        filled["algorithm.order"] = "yes" if keeps_order(strength) else "no"
    return filled


def _configured(base: Any, settings: Mapping[str, object], prefix: str) -> Any:
    """Return the config `base` with the dotted settings below `prefix` in place of its own."""
    hints = typing.get_type_hints(type(base))
    parts = {name for name, hint in hints.items() if is_dataclass(hint)}
    below = {
        k.removeprefix(f"{prefix}."): v for k, v in settings.items() if k.startswith(f"{prefix}.")
    }
    unknown = [key for key in below if not _is_known(key, hints, parts)]
    if unknown:
        raise ConfigError(f"Unknown settings {sorted(unknown)} in {prefix}; update this device.")
    values = {
        name: _converted(f"{prefix}.{name}", hints[name], below[name])
        for name in hints
        if name in below
    }
    nested = {name: _configured(getattr(base, name), below, name) for name in parts}
    return replace(base, **values, **nested)


def _is_known(key: str, hints: Mapping[str, object], parts: set[str]) -> bool:
    """Whether a dotted key names a setting or one of a part; a method's own name travels too."""
    first, dot, _ = key.partition(".")
    return first in parts if dot else key == "name" or (key in hints and key not in parts)


def _converted(path: str, hint: object, value: object) -> object:
    """Return a setting of the hinted type; a whole number will do for a float."""
    if hint is float and type(value) is int:
        return float(value)
    choices = typing.get_args(hint)
    if value in choices if choices else type(value) is hint:
        return value
    kind = hint.__name__ if isinstance(hint, type) else "another kind of value"
    expected = " or ".join(map(repr, choices)) or kind
    raise ConfigError(f"Expected {path}={value!r} to be {expected}; mend the settings.")
