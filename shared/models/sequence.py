"""Sequence models: what comes next is read off the order of what came before.

There is one shared table of item vectors, which both reads and predicts, and no user vector: the
state of a user is computed on the device from the whole history, so a new user works at once. A
core (`gru`, `attention`) reads the newest events one by one; beside it runs a memory without end,
sums of item vectors that decay at several rates and take in every event ever seen:

    m_k(t) = 2 ** (-1 / half_life_k) m_k(t - 1) + c_k x_t
    state  = core(window) W + sum_k m_k A_k                score(i) = <state, v_i> + b_i

Source: Hidasi et al. 2016 (recurrent recommenders), Kang & McAuley 2018 (self-attention, tied
table), Ma et al. 2023 (decaying sums beside attention).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.data.interactions import Interactions
from shared.errors import ConfigError
from shared.models.base import Tensors
from shared.models.mf import principal_axes
from shared.models.predictor import Dot
from shared.models.windows import Windows, half_lives, take_windows
from shared.randomness import stream

if TYPE_CHECKING:
    import torch

    Torch = torch.Tensor

__all__ = ["Core", "SequenceConfig", "SequenceModel"]

Array = NDArray[np.float64]

BATCH = 256
"""Most histories that are scored at once."""

CELLS = 1 << 22
"""Most (history, item) pairs that are scored at once; one history's are the least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceConfig:
    """Settings that all sequence models share.

    Attributes:
        dim: Coordinates of an item vector and of a state.
        window: Newest events that are read one by one.
        memories: Decayed sums of the whole history beside them.
        shortest: Half-life of the fastest of them, in events.
        longest: Half-life of the slowest.
        dropout: Share of the coordinates of inputs and states that training leaves out.
        init: Start of the item table: "normal", or "content": principal axes of public item
            content where the catalogue has any.
        init_scale: Standard deviation of a normal coordinate.
        content_scale: Factor of the principal axes of 0/1 item features.
        memory_scale: The memory's matrices start as this multiple of the identity: with content
            in the table, items like those of the history are ranked high before any round.
        core_scale: Factor of the start of the core's output; 0 leaves its say to training.

    Raises:
        ConfigError: A number is out of range.
    """

    dim: int = 64
    window: int = 50
    memories: int = 5
    shortest: float = 1.0
    longest: float = 200.0
    dropout: float = 0.5
    init: Literal["normal", "content"] = "content"
    init_scale: float = 0.02
    content_scale: float = 0.1
    memory_scale: float = 0.1
    core_scale: float = 1.0

    def __post_init__(self) -> None:
        least = {"dim": self.dim, "window": self.window, "memories": self.memories + 1}
        wrong = [f"model.{name}={value}" for name, value in least.items() if value < 1]
        for name in ("shortest", "longest", "init_scale", "content_scale"):
            if not 0.0 < getattr(self, name) < math.inf:
                wrong.append(f"model.{name}={getattr(self, name)}")
        for name in ("memory_scale", "core_scale"):
            if not 0.0 <= getattr(self, name) < math.inf:
                wrong.append(f"model.{name}={getattr(self, name)}")
        if not 0.0 <= self.dropout < 1.0:
            wrong.append(f"model.dropout={self.dropout}")
        if wrong:
            raise ConfigError(f"Expected positive numbers and a dropout in [0, 1): {wrong}.")


class Core(Protocol):
    """What reads a window, one event after the other, never one before its turn."""

    @property
    def masks(self) -> int:
        """How many dropout masks [dim] a position takes."""
        ...

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        """Return the start of the core's tensors."""
        ...

    def read(self, tensors: Mapping[str, "Torch"], inputs: "Torch", masks: "Torch") -> "Torch":
        """Return hidden states [users, positions, dim] of inputs of that shape.

        Args:
            tensors: The core's tensors among others.
            inputs: [users, positions, dim].
            masks: [users or 1, positions, masks, dim], factors of the core's dropout.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceModel(Dot):
    """A tied item table, a core that reads the window, decayed sums of the whole history.

    Attributes:
        n_items: Size of the catalogue.
        config: Public settings.
        core: Reads the window.
        features: float64 [n_items, any], public item content, or None. Only a starting server
            needs it.
    """

    n_items: int
    config: SequenceConfig
    core: Core
    features: Array | None = field(default=None, repr=False)

    @property
    def global_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the shared tensors by name."""
        dim, config = self.config.dim, self.config
        core = {n: v.shape for n, v in self.core.initial(np.random.default_rng(0)).items()}
        memory = {"memory": (config.memories, dim, dim)} if config.memories else {}
        own = {"items": (self.n_items, dim), "bias": (self.n_items,), "start": (dim,)}
        return {**own, "output": (dim, dim), **memory, **core}

    @property
    def local_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Nothing is kept per user: the state is computed from the history."""
        return {}

    @property
    def masks(self) -> int:
        """How many dropout masks [dim] a position takes: of inputs, of states, of the core's."""
        return 2 + self.core.masks

    @property
    def half_lives(self) -> Array:
        """float64 [memories], half-lives of the decayed sums, in events."""
        config = self.config
        return half_lives(shortest=config.shortest, longest=config.longest, count=config.memories)

    def initial(self, seed: int) -> dict[str, Array]:
        """Return the start: from the seed and public item content alone."""
        config, rng = self.config, stream(seed, "initial sequence")
        shape, dim = (self.n_items, config.dim), config.dim
        items = rng.normal(0.0, config.init_scale, shape)
        if config.init == "content" and self.features is not None:
            axes = principal_axes(self.features, dim) * config.content_scale
            items[:, : axes.shape[1]] = axes
        bound = 1.0 / math.sqrt(dim)
        made = {
            "items": items,
            "bias": np.zeros(self.n_items),
            "start": np.zeros(dim),
            "output": rng.uniform(-bound, bound, (dim, dim)) * config.core_scale,
        }
        if config.memories:
            start = config.memory_scale * np.eye(dim)
            made["memory"] = np.tile(start, (config.memories, 1, 1))
        return {**made, **self.core.initial(rng)}

    def score(self, tensors: Tensors, histories: Interactions) -> Array:
        """Return float64 [rows, n_items]: scores by the state after the whole history."""
        import torch

        values = {n: torch.tensor(v, dtype=torch.float32) for n, v in tensors.items()}
        scores = np.empty((histories.n_users, self.n_items))
        size = max(1, min(BATCH, CELLS // max(1, self.n_items)))
        with torch.no_grad():
            for start in range(0, histories.n_users, size):
                rows = np.arange(start, min(start + size, histories.n_users))
                part = self.windows(histories.select(rows))
                states = self.states(values, self.prepared(part, kind=torch.float32))
                last = states[torch.arange(len(rows)), torch.from_numpy(part.lengths)]
                scores[rows] = (last @ values["items"].T + values["bias"]).numpy()
        return scores

    def windows(self, histories: Interactions, ends: NDArray[np.int64] | None = None) -> Windows:
        """Return the newest events of each history and decayed sums of those before them."""
        return take_windows(
            histories, size=self.config.window, half_lives=self.half_lives, ends=ends
        )

    def prepared(self, windows: Windows, *, kind: "torch.dtype") -> dict[str, "Torch"]:
        """Return windows as tensors of a number type, for `states`."""
        import torch

        return {
            "events": torch.from_numpy(windows.events),
            "older": torch.from_numpy(windows.older),
            "before": torch.tensor(windows.weights, dtype=kind),
        }

    def states(
        self,
        tensors: Mapping[str, "Torch"],
        prepared: Mapping[str, "Torch"],
        masks: "Torch | None" = None,
    ) -> "Torch":
        """Return the state before each event of a window and after the last.

        Args:
            tensors: The global tensors.
            prepared: What `prepared` returns.
            masks: [users, positions, masks, dim], factors of the dropout.

        Returns:
            [users, width + 1, dim]; behind a window's length they mean nothing.

        Guarantees:
            A state depends on events before its position alone.
        """
        import torch

        events = prepared["events"]
        table = tensors["items"]
        read = torch.nn.functional.embedding(events, table) * math.sqrt(self.config.dim)
        first = tensors["start"].expand(len(events), 1, -1)
        inputs = torch.cat([first, read], dim=1)
        if masks is None:
            masks = torch.ones((), dtype=table.dtype).expand(1, 1, self.masks, 1)
        inputs = inputs * masks[:, :, 0]
        states = self.core.read(tensors, inputs, masks[:, :, 2:]) @ tensors["output"]
        if self.config.memories:
            states = states + self._remembered(tensors, prepared, inputs[:, 1:])
        return states * masks[:, :, 1]

    def _remembered(
        self, tensors: Mapping[str, "Torch"], prepared: Mapping[str, "Torch"], read: "Torch"
    ) -> "Torch":
        """Return what the decayed sums add to the states, [users, width + 1, dim]."""
        users, width, dim = read.shape
        within, since = self._decay(width, like=read)
        slots = len(since)
        old = prepared["before"] @ (tensors["items"][prepared["older"]] * math.sqrt(dim))
        new = (within.flatten(0, 1) @ read).reshape(users, slots, width + 1, dim)
        whole = new + since[:, :, None] * old[:, :, None]
        return (whole @ tensors["memory"]).sum(dim=1)

    def _decay(self, width: int, *, like: "Torch") -> tuple["Torch", "Torch"]:
        """Return the weights of events inside the window and of the sums before it.

        Returns:
            [memories, width + 1, width]: of each event at each position, 0 before its turn; and
            [memories, width + 1]: of what came before the window.
        """
        import torch

        keep = np.exp2(-1.0 / self.half_lives)
        scale = np.sqrt(1.0 - keep**2)[:, None]
        age = np.arange(width + 1)[:, None] - 1 - np.arange(width)
        powers = keep[:, None, None] ** np.maximum(age, 0)
        within = np.where(age >= 0, scale[:, None] * powers, 0.0)
        since = scale * keep[:, None] ** np.arange(width + 1)
        one, two = (torch.tensor(value, dtype=like.dtype) for value in (within, since))
        return one, two
