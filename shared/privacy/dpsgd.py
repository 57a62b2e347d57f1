"""Differentially private gradient descent on the device: clip each example, noise each step.

The mechanism is that of Abadi et al. 2016. `opacus_descent` runs it with Opacus for any module;
`clip_factors` and `LazyNoise` are the same mechanism for row-sparse models, where Opacus would
hold a gradient of batch x items x dim. A row that no example reads needs its noise only once, with
the summed variance: exact for plain gradient descent, because the row is read by nobody in between.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shared.randomness import NoiseSource

if TYPE_CHECKING:
    import torch

__all__ = ["LazyNoise", "clip_factors", "opacus_descent"]

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def clip_factors(norms: Array, *, clip_norm: float) -> Array:
    """Return the factor that brings each example's gradient within the bound, as Opacus does.

    Args:
        norms: float64 [examples], L2 norms.
        clip_norm: The bound.

    Guarantees:
        clip factors bound the norm: norm * factor <= clip_norm.
        clip factors zero what is not finite: such an example contributes nothing.
    """
    factors = np.minimum(1.0, clip_norm / (norms + 1e-6))
    return np.where(np.isfinite(norms), factors, 0.0)


class LazyNoise:
    """Noise owed to rows: paid when a row is about to be read, the rest at release.

    Args:
        rows: Rows of the whole tensor, touched or not.
        index: int64 [slots], row of the whole tensor that each slot copies.
        deviation: Standard deviation of one step's noise, in the unit of the value it moves.
        noise: Where draws come from.

    Guarantees:
        Paid and owed variance add up: every row of every user receives the variance of all steps.
    """

    def __init__(self, *, rows: int, index: Ints, deviation: float, noise: NoiseSource) -> None:
        self._index = index
        self._rows = rows
        self._deviation = deviation
        self._noise = noise
        self._paid = np.zeros(len(index), dtype=np.int64)

    def pay(
        self, values: Array, slots: Ints, *, steps_done: int, keys: tuple[str | int, ...]
    ) -> None:
        """Add the noise that `slots` owe for `steps_done` steps; `values` is changed in place."""
        owed = steps_done - self._paid[slots]
        shape = (len(slots), *values.shape[1:])
        scale = (self._deviation * np.sqrt(owed)).reshape(-1, *[1] * (values.ndim - 1))
        values[slots] += scale * self._noise.gaussian(shape, *keys)
        self._paid[slots] = steps_done

    def settled(self, *, steps: int) -> None:
        """Note that every slot has received the noise of `steps` steps already."""
        self._paid[:] = steps

    def whole(self, *, users: int, steps: int) -> float:
        """Return the variance that each row of the sum over `users` must have at release."""
        return self._deviation**2 * users * steps

    def paid(self) -> Array:
        """Return float64 [rows]: the variance that each row of the sum has received."""
        steps = np.bincount(self._index, weights=self._paid, minlength=self._rows)
        return np.asarray(self._deviation**2 * steps)


def opacus_descent(
    module: "torch.nn.Module",
    batches: Sequence[tuple["torch.Tensor", ...]],
    *,
    rates: Mapping[str, float],
    clip_norm: float,
    noise_multiplier: float,
    noise: NoiseSource,
    keys: tuple[str | int, ...] = (),
    after_step: Callable[[], None] | None = None,
) -> None:
    """Descend with Opacus's per-example gradients and clipping, and our protective noise.

    The gradient of a step is the clipped *sum*; `rates` hold the public scale. Opacus draws from
    a generator that can be seeded, so its noise step is replaced by `noise`; its own secure mode
    needs a package that is no longer maintained.

    Args:
        module: Maps a batch to float64 [examples] losses; changed in place.
        batches: One tuple of tensors a step, first axis examples; a step may have none.
        rates: Name of a parameter -> learning rate.
        clip_norm: Bound of one example's gradient.
        noise_multiplier: Noise standard deviation divided by `clip_norm`.
        noise: Source of the draws.
        keys: Names the draws for stand-in sources.
        after_step: Called after each step; what it does to the module may not look at data.
    """
    import torch
    from opacus import GradSampleModule

    wrapped: Any = GradSampleModule(module, loss_reduction="sum")
    named = dict(module.named_parameters())
    groups = [{"params": [named[name]], "lr": rate} for name, rate in rates.items()]
    optimiser = _sourced_optimiser()(
        torch.optim.SGD(groups),
        noise_multiplier=noise_multiplier,
        max_grad_norm=clip_norm,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    optimiser.source, optimiser.keys = noise, keys
    for batch in batches:
        optimiser.zero_grad(set_to_none=True)
        _backward(wrapped, batch)
        optimiser.step()
        if after_step is not None:
            after_step()
    wrapped.remove_hooks()


def _backward(wrapped: Any, batch: tuple["torch.Tensor", ...]) -> None:
    """Leave each example's gradient in `grad_sample` of the parameters."""
    import torch

    if len(batch[0]):
        with warnings.catch_warnings():
            # Opacus hooks layers whose input is an index, which has no gradient to speak of.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            wrapped(*batch).sum().backward()
        return
    for parameter in wrapped.parameters():
        parameter.grad_sample = torch.zeros((0, *parameter.shape), dtype=parameter.dtype)


@cache
def _sourced_optimiser() -> Any:
    """Return Opacus's optimiser class with its noise drawn from `source`."""
    import torch
    from opacus.optimizers import DPOptimizer

    class SourcedOptimizer(DPOptimizer):  # type: ignore[misc]
        """Opacus's clipping; noise from a source that cannot be seeded."""

        source: NoiseSource
        keys: tuple[str | int, ...]
        steps = 0

        def add_noise(self) -> None:
            self.steps += 1
            for place, parameter in enumerate(self.params):
                total = parameter.summed_grad
                values = self.source.gaussian(tuple(total.shape), *self.keys, self.steps, place)
                draw = torch.from_numpy(values).to(total.dtype)
                parameter.grad = total + self.noise_multiplier * self.max_grad_norm * draw

    return SourcedOptimizer
