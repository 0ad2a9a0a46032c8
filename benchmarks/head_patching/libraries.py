"""By nnsight, baukit and pyvene, each as its own users would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

from nnsight import NNsight
from torch import Tensor

from benchmarks.head_patching.task import Runner, Task
from benchmarks.peers import library


def by_nnsight(task: Task) -> Runner:
    """A trace for each head."""
    model: Any = NNsight(deepcopy(task.transformer))

    def cached(inputs: Mapping[str, Any]) -> tuple[list[Tensor], Tensor]:
        sources: list[Any] = []
        stream: Any = None
        tracer: Any
        with model.trace(**inputs) as tracer:
            for block in task.blocks:
                sources.append(model.blocks[block].attn1.to_out[0].input.save())
            stream = model.blocks[task.readout].output.save()
            tracer.stop()
        return sources, stream

    def patched(sources: Sequence[Tensor], block: int, head: int) -> Tensor:
        source, columns, stream = sources[block], task.columns(head), None
        tracer: Any
        with model.trace(**task.corrupted) as tracer:
            model.blocks[block].attn1.to_out[0].input[..., columns] = source[..., columns]
            stream = model.blocks[task.readout].output.save()
            tracer.stop()
        assert stream is not None
        return stream

    def run() -> Tensor:
        sources, _ = cached(task.clean)
        _, corrupted = cached(task.corrupted)
        return task.effects(partial(patched, sources), corrupted)

    return run


def by_baukit(task: Task) -> Runner:
    """A TraceDict for each head."""
    model, tracing = task.transformer, library("baukit").TraceDict
    places = [f"blocks.{block}.attn1.to_out.0" for block in task.blocks]
    readout = f"blocks.{task.readout}"

    def cached(inputs: Mapping[str, Any]) -> tuple[list[Tensor], Tensor]:
        with tracing(model, [*places, readout], retain_input=True, stop=True) as traced:
            model(**inputs)
        return [traced[place].input for place in places], traced[readout].output

    def patched(sources: Sequence[Tensor], block: int, head: int) -> Tensor:
        source, columns = sources[block][..., task.columns(head)], task.columns(head)
        weight = model.blocks[block].attn1.to_out[0].weight[:, columns]

        def edit(output: Tensor, layer: str, inputs: tuple[Tensor, ...]) -> Tensor:
            return output + (source - inputs[0][..., columns]) @ weight.T if layer == places[block] else output

        with tracing(model, [places[block], readout], edit_output=edit, stop=True) as traced:
            model(**task.corrupted)
        return traced[readout].output

    def run() -> Tensor:
        sources, _ = cached(task.clean)
        _, corrupted = cached(task.corrupted)
        return task.effects(partial(patched, sources), corrupted)

    return run


def by_pyvene(task: Task) -> Runner:
    """An intervenable model for each block, called for each head."""
    model, pyvene = task.transformer, library("pyvene")
    width = task.heads * task.width

    def place(component: str, intervention: Any) -> Any:
        return pyvene.RepresentationConfig(component=component, unit="pos", intervention=intervention)

    def collected(inputs: Mapping[str, Any]) -> list[Tensor]:
        components = [*(f"blocks[{b}].attn1.to_out[0].input" for b in task.blocks), f"blocks[{task.readout}].output"]
        places = [
            place(component, pyvene.CollectIntervention(embed_dim=width, keep_last_dim=True))
            for component in components
        ]
        (_, values), _ = pyvene.IntervenableModel(places, model)(dict(inputs))
        return list(values)

    def intervenable(block: int, source: Tensor) -> Any:
        swap = pyvene.VanillaIntervention(embed_dim=width, source_representation=source)
        reads = place(f"blocks[{task.readout}].output", pyvene.CollectIntervention(embed_dim=width, keep_last_dim=True))
        return pyvene.IntervenableModel([place(f"blocks[{block}].attn1.to_out[0].input", swap), reads], model)

    def patched(models: Sequence[Any], block: int, head: int) -> Tensor:
        columns = list(range(width)[task.columns(head)])
        (_, (stream,)), _ = models[block](dict(task.corrupted), subspaces=[[columns], None])
        return stream

    def run() -> Tensor:
        *sources, _ = collected(task.clean)
        *_, corrupted = collected(task.corrupted)
        models = [intervenable(block, sources[block]) for block in task.blocks]
        return task.effects(partial(patched, models), corrupted)

    return run
