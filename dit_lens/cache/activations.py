"""`ActivationCache`: activations in memory with the methods of TransformerLens, and exact attribution of readouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, overload

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

import dit_lens.cache.files as files
from dit_lens.axes import TokenGrid
from dit_lens.cache.anatomy import STREAM, Anatomy, block_of, is_stream, layer_of, stream_of
from dit_lens.cache.decomposition import Frozen, components, head_readouts, head_writes, precise, velocity_readout
from dit_lens.cache.names import Key, full_name
from dit_lens.cache.split import LinearProbe, Split, per_token
from dit_lens.choices import nearest

VELOCITY = "hook_velocity"
LAST = "resid_post", -1


class Stack(NamedTuple):
    """Activations of one shape, stacked on a new first axis, with a label for each; it unpacks as values, labels."""

    values: Tensor
    labels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ActivationCache(Mapping[str, Tensor]):
    """The activations of one run by hook point name, without the model.

    `cache["blocks.3.attn.hook_z"]`, or short: `cache["z", 3]`, `cache["z", 3, "cross_attn"]`,
    `cache["resid_post", -1]`. `cache[:2]` is the cache of the first two clips. Activations share no memory, so
    writing into one changes no other.
    A cache over several steps has a leading step axis s; `steps` names them.

    Attributes:
        tensors: activations by name, (b, ...) or (s, b, ...).
        grid_shape: the grid of video tokens.
        blocks: the number of blocks of the model.
        steps: the steps of the leading axis; None without a step axis.
        axes: letters of the axes by name, without the step axis; empty after a reduction, which may change them.
        anatomy: the weights for decompositions, `lens.anatomy`; None in a cache opened without them.
    """

    tensors: Mapping[str, Tensor]
    grid_shape: TokenGrid
    blocks: int
    steps: tuple[int, ...] | None = None
    axes: Mapping[str, str] = field(default_factory=dict)
    anatomy: Anatomy | None = None

    @overload
    def __getitem__(self, key: slice) -> ActivationCache: ...
    @overload
    def __getitem__(self, key: Key) -> Tensor: ...
    def __getitem__(self, key: Key | slice) -> Tensor | ActivationCache:
        if isinstance(key, slice):
            return self._of_clips(key)
        name = self.name(key)
        if name not in self.tensors:
            raise KeyError(
                f"got {name!r} · expected one of the {len(self.tensors)} cached points{nearest(name, self.tensors)}"
                " · widen names_filter"
            )
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        lines = [f"  {name}: {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in self.tensors.items()]
        return "\n".join([f"ActivationCache of {len(self)} points, steps {self.steps}", *lines])

    def name(self, key: Key) -> str:
        """The full name of a point.

        Raises:
            KeyError: the model has no such block.
        """
        return full_name(key, self.blocks)

    def grid(self, name: str, block: int) -> Tensor:
        """An activation with its video tokens on their grid: (b, f, h, w, ...), after a step axis if there is one."""
        tensor = self[name, block]
        if self.steps is None:
            return self.grid_shape.unflatten(tensor)
        return self.grid_shape.unflatten(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])

    def to(self, target: torch.device | torch.dtype | str) -> ActivationCache:
        """The cache on a device, or with its floating-point activations in a dtype."""
        floating = isinstance(target, torch.dtype)
        tensors = {name: x if floating and not x.is_floating_point() else x.to(target) for name, x in self.items()}
        return replace(self, tensors=tensors)

    # Files.

    def save(self, path: str | Path) -> Path:
        """Writes an HDF5 file atomically, with the exact bits of activations (bfloat16 too) and without weights."""
        return files.write(Path(path), self.tensors, self.axes, self.grid_shape, self.blocks, self.steps)

    @classmethod
    def open(cls, path: str | Path, anatomy: Anatomy | None = None) -> ActivationCache:
        """The cache that `save` wrote, on the CPU.

        Args:
            anatomy: `lens.anatomy` of the same model, for decompositions.

        Raises:
            FileNotFoundError: no such file. ValueError: the file is truncated, damaged or no cache.
        """
        return cls(*files.read(Path(path)), anatomy)

    # Stacks.

    def stack_activation(self, name: str, layer: str = "") -> Tensor:
        """An activation of all blocks: (l, b, ...), after a step axis if there is one."""
        return self._stacked([self[name, block, layer] for block in range(self.blocks)])

    def accumulated_resid(self, point: Key = LAST, mid: bool = True) -> Stack:
        """The residual stream before block 0, after every write ("0_mid_attn") and block ("1_pre"), up to a point.

        Args:
            point: the last stream; by default that after the last block.
            mid: whether to include streams inside blocks.

        Raises:
            KeyError: the point is not a stream.
        """
        last = self.name(point)
        streams = [name for name in self._read().points if is_stream(name)]
        if last not in streams:
            raise KeyError(f"got {last!r} · expected a stream, blocks.*.hook_resid_*{nearest(last, streams)}")
        streams = [name for name in streams if stream_of(name) == stream_of(last)]
        # The output of a block is the input of the next: "pre" of the next stands for both.
        wanted = [name for name in streams[: streams.index(last)] if name.endswith("_pre") or (mid and "_mid" in name)]
        wanted = [*wanted, last]
        labels = tuple(f"{block_of(name)}_{name.rpartition(STREAM)[2]}" for name in wanted)
        return Stack(self._stacked([self[name] for name in wanted]), labels)

    def decompose_resid(self, point: Key = LAST) -> Stack:
        """The terms of a stream: the embedding ("embed") and each write of each block ("0_attn_out"), gate included.

        The sum over the stack is the stream, up to rounding.
        """
        terms = self._read().terms(self.name(point))
        labels = ("embed" if is_stream(name) else f"{block_of(name)}_{layer_of(name)}_out" for name in terms)
        return Stack(self._stacked([self[name] for name in terms]), tuple(labels))

    def stack_head_results(
        self, layer: str = "attn", point: Key = LAST, project: Float[Tensor, " d"] | None = None
    ) -> Stack:
        """What each head of each block ("L0H1") writes to a stream, gate included: (l k, b, n, d).

        Args:
            layer: the attention, such as "cross_attn".
            point: the stream; later writes are left out.
            project: a direction; the result is each write's inner product with it, (l k, b, n), at less memory.
        """
        anatomy = self._read()
        names = [name for name in anatomy.terms(self.name(point)) if layer_of(name) == layer and name in anatomy.heads]
        if not names:
            raise KeyError(f"got layer {layer!r} · expected an attention that writes to {self.name(point)!r}")
        values, labels = [], []
        for name in names:
            write = anatomy.heads[name]
            if project is None:
                by_head = head_writes(self, write).unbind(-2)
            else:
                by_source, _ = head_readouts(self, write, project)
                by_head = torch.stack(list(by_source.values())).sum(0).unbind(-1)
            values += by_head
            labels += [f"L{block_of(name)}H{head}" for head in range(len(by_head))]
        return Stack(self._stacked(values), tuple(labels))

    def apply_ln_to_stack(self, stack: Tensor) -> Tensor:
        """A stack of terms of the last stream, (c, b, n, d), as they enter the last linear layer.

        The final norm divides each term by the statistics of the whole stream (frozen), and the scale by time is
        applied; constants, such as the shift, are left out.
        """
        axis = 0 if self.steps is None else 1
        return self._frozen().part(stack, axis)

    # Exact attribution.

    def attribute_to(
        self, readout: LinearProbe | Float[Tensor, "*f d"], point: Key | None = None, pool: bool = True
    ) -> xr.Dataset:
        """The logit of a linear readout of a stream, split exactly into embedding, heads, layers and biases.

        Every write is gate · (Σ_k W_k z_k + bias), so the parts add up to the logit without any patching. In families
        with a norm between write and gate (Mochi), the divisor of the norm is frozen.

        Args:
            readout: a probe, or a direction, (d,) or (f, d) (logit = mean over tokens of the stream along it, or sum
                over latent frames of their means along theirs).
            point: the point that the readout reads; by default where the probe was fitted, or the stream after the last
                block. A write, such as ("attn_out", 3), is split into its heads.
            pool: False gives parts by frame, row and column; their sum over these is the pooled part.

        Returns:
            `attribution` (step, clip, block, component), where "attn.2" is head 2 of self-attention and "attn.bias" the
            bias of its projection; `embedding`; `constant` (the probe's bias); `readout`, the logit; and `unexplained`,
            the difference of the logit and the sum of parts: rounding, and edits by hooks in between.
            `lens.anatomy.needs(point)` lists the points to cache.

        Raises:
            KeyError: a point is not cached, or neither stream nor write. ValueError: a direction of another width.
        """
        if isinstance(readout, Tensor):
            weight, bias, reads = readout, 0.0, self.name(LAST)
        else:
            weight, bias, reads = readout.weight, readout.bias, readout.reads.point
        name = reads if point is None else self.name(point)
        anatomy = self._read()
        anatomy.terms(name)
        stream = precise(self[name])
        toward = per_token(weight, stream)
        constant = stream.new_tensor(bias).double()
        logit = torch.linalg.vecdot(stream, toward).double().sum(-1) + constant
        split = Split(logit, constant, *components(self, anatomy, name, toward))
        return self._table(split, pool, point=name, unit="logit")

    def velocity_attrs(self, direction: Float[Tensor, "..."], pool: bool = True) -> xr.Dataset:
        """<velocity, direction>, split exactly as in `attribute_to`; the divisor of the final norm is frozen.

        Args:
            direction: a tensor that broadcasts to the velocity (b, c, f, h, w), such as one of (c, f, h, w).
            pool: False gives parts by frame, row and column.

        Returns:
            As `attribute_to`; `constant` is the share of the latent itself, the shift and the last bias.

        Raises:
            ValueError: the family does not define its final layer, or the direction does not broadcast.
            KeyError: a point is not cached; see `lens.anatomy.needs_of_velocity()`.
        """
        frozen, velocity = self._frozen(), precise(self[VELOCITY])
        sizes = zip(reversed(direction.shape), reversed(velocity.shape), strict=False)
        if direction.ndim > velocity.ndim or any(size not in (1, full) for size, full in sizes):
            raise ValueError(
                f"got a direction of {tuple(direction.shape)} · expected what broadcasts to {tuple(velocity.shape)}"
            )
        direction = direction.to(velocity).expand_as(velocity)
        toward, constant = velocity_readout(self, frozen, direction)
        readout = (velocity * direction).double().flatten(-4).sum(-1)
        split = Split(readout, constant.double(), *components(self, self._read(), self.name(LAST), toward))
        return self._table(split, pool, point=VELOCITY, unit="<velocity, direction>")

    def _table(self, split: Split, pool: bool, **facts: str) -> xr.Dataset:
        tokens = split.embedding.shape[-1]
        if not pool and tokens != self.grid_shape.tokens:
            raise ValueError(f"got {tokens} tokens that are not on the grid · expected those of video · pool=True")
        table = split.pooled().dataset(self.steps) if pool else split.dataset(self.steps, self.grid_shape)
        return table.assign_attrs(facts)

    def _read(self) -> Anatomy:
        if self.anatomy is None:
            raise ValueError(
                "got a cache without weights · expected those of its model"
                " · ActivationCache.open(path, lens.anatomy), or dataclasses.replace(cache, anatomy=lens.anatomy)"
            )
        if any(write.weight.is_meta for write in self.anatomy.heads.values()):
            raise ValueError(
                "got weights that are in memory while their layer runs only (sequential offload) · expected weights"
                " that stay · enable_model_cpu_offload, or no offload"
            )
        return self.anatomy

    def _frozen(self) -> Frozen:
        final = self._read().final
        if final is None:
            raise ValueError(
                "got a model whose family does not state its last layer · expected norms, shift, scale and a linear"
                " layer (`Table.final`) · attribute_to and decompose_resid do without"
            )
        return Frozen.of(self, final, self.name(LAST))

    def _stacked(self, values: list[Tensor]) -> Tensor:
        dtype = values[0].dtype
        for value in values:
            dtype = torch.promote_types(dtype, value.dtype)
        return torch.stack([value.to(dtype) for value in values], 0 if self.steps is None else 1)

    def _of_clips(self, clips: slice) -> ActivationCache:
        axis = 0 if self.steps is None else 1
        sizes = {x.shape[axis] if x.ndim > axis else 0 for x in self.values()}
        if len(sizes) > 1:
            raise ValueError(
                f"got activations of {sorted(sizes)} clips · expected as many of each · a reduction has taken the axis"
            )
        taken = (slice(None),) * axis + (clips,)
        return replace(self, tensors={name: x[taken].clone() for name, x in self.items()})
