"""Features keep clips and cells together: what goes in comes out by name, and what does not fit is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dit_lens.probing import Features

ROLES = ["A", "B", "C", "D"]
LAWS = ["gravity", "inertia", "gravity"]
POINT = "blocks.{block}.hook_resid_post"
SIGMAS = {8: 0.4, 14: 0.7}


def table(scenes: int = 3) -> pd.DataFrame:
    """Scene by scene A, B possible and C, D impossible."""
    scene = np.repeat([f"s{i}" for i in range(scenes)], 4)
    role = np.tile(ROLES, scenes)
    return pd.DataFrame(
        {
            "id": [f"{s}/{r}" for s, r in zip(scene, role, strict=True)],
            "scene": scene,
            "group": scene,
            "role": role,
            "property": np.repeat(LAWS[:scenes], 4),
            "possible": np.tile([True, True, False, False], scenes),
        }
    )


def features(scenes: int = 3, **options: object) -> Features:
    """Cells (step, block); feature j of clip i in cell (s, b) is 1000 s + 100 b + 10 i + j."""
    clip, feature = np.arange(4 * scenes)[:, None], np.arange(2)
    cells = {(s, b): 1000.0 * s + 100 * b + 10 * clip + feature for s in (8, 14) for b in (0, 1, 2)}
    return replace(Features(cells, table(scenes), point=POINT, sigmas=SIGMAS, name="mini-wan"), **options)


def test_what_is_known_of_clips_comes_back_by_name() -> None:
    clips = features()
    assert len(clips) == 12 and clips.labels.tolist() == [True, True, False, False] * 3
    assert clips.groups.tolist() == clips.scenes.tolist() == np.repeat(["s0", "s1", "s2"], 4).tolist()
    assert clips.coordinates == {"step": [8, 14], "block": [0, 1, 2]}
    assert clips.cell(14, 2)[5, 1] == 14000 + 200 + 50 + 1
    assert repr(clips) == "Features('mini-wan': 12 clips in 3 groups, 6 cells (2 step x 3 block), 2 features)"


def test_clips_are_chosen_by_number_mask_and_column_with_their_features() -> None:
    clips = features()
    odd = clips.at(np.arange(12) % 2 == 1)
    assert odd.clips.role.tolist() == ["B", "D"] * 3 and odd.cell(8, 0)[:, 0].tolist() == [
        8010 + 20 * i for i in range(6)
    ]
    assert odd.clips.id.tolist() == clips.at([1, 3, 5, 7, 9, 11]).clips.id.tolist()
    fallen = clips.where(property="gravity", role=("A", "C"))
    assert fallen.clips.id.tolist() == ["s0/A", "s0/C", "s2/A", "s2/C"]
    assert fallen.cell(8, 1)[:, 1].tolist() == [8101, 8121, 8181, 8201]
    with pytest.raises(ValueError, match=r"which no clip has · expected values among .*'gravity', 'inertia'"):
        clips.where(property="magic")
    with pytest.raises(ValueError, match="got column 'law' · expected one of id, scene"):
        clips.where(law="gravity")


def test_clips_without_label_are_dropped_when_asked_and_refused_when_not() -> None:
    known = table()
    known["possible"] = known.possible.astype(object)
    known.loc[[2, 7], "possible"] = None
    clips = features(clips=known)
    with pytest.raises(ValueError, match="got 2 clips without a label"):
        _ = clips.labels
    assert len(clips.labelled()) == 10 and clips.labelled().labels.sum() == 6
    with pytest.raises(ValueError, match=r"classes \['True'\]"):
        _ = clips.where(role="A").labels
    with pytest.raises(ValueError, match="which no clip has"):
        clips.at([2, 7]).labelled()


def test_cells_are_chosen_by_value_and_named_where_missing() -> None:
    clips = features()
    assert list(clips.select(step=14).cells) == [(14, 0), (14, 1), (14, 2)]
    late = clips.select(step=14, block=range(1, 3))
    assert list(late.cells) == [(14, 1), (14, 2)] and late.sigmas == {14: 0.7}
    with pytest.raises(ValueError, match=r"got block 7 · expected values among \[0, 1, 2\]"):
        clips.select(block=(1, 7))
    with pytest.raises(ValueError, match="got dimension 'head' · expected one of step, block"):
        clips.select(head=0)
    with pytest.raises(ValueError, match=r"got cell \(14, 9\) · expected a key along \('step', 'block'\)"):
        clips.cell(14, 9)


def test_parts_are_joined_where_they_were_read_alike() -> None:
    first, second = features(2), features()
    renamed = second.clips.assign(**{c: "other/" + second.clips[c] for c in ("id", "scene", "group")})
    joined = Features.concat([first, replace(second.renamed("other"), clips=renamed)])
    assert len(joined) == 20 and joined.name == "mini-wan + other"
    assert joined.cell(8, 2)[[0, 8], 0].tolist() == [8200, 8200]
    with pytest.raises(ValueError, match=r"8 clip ids that occur more than once .*prefix the ids"):
        Features.concat([first, second])
    with pytest.raises(ValueError, match="same model and pooling"):
        Features.concat([first, replace(second, clips=renamed, parts=2)])
    with pytest.raises(ValueError, match="same model and pooling"):
        Features.concat([first, replace(second, clips=renamed).select(block=0)])
    with pytest.raises(ValueError, match="got no features"):
        Features.concat([])


def test_the_array_has_every_number_at_its_name_in_any_order() -> None:
    clips = features()
    order = np.random.default_rng(0).permutation(12)
    keys = list(clips.cells)[::-1]
    shuffled = replace(clips, cells={key: clips.cells[key] for key in keys}).at(order)
    for array in (clips.to_array(), shuffled.to_array()):
        assert array.dims == ("scene", "role", "step", "block", "feature") and array.attrs == {"parts": 1}
        for i, key in ((0, (8, 0)), (6, (14, 2)), (11, (8, 1))):
            at = {"scene": f"s{i // 4}", "role": ROLES[i % 4], "step": key[0], "block": key[1]}
            assert array.sel(at).values.tolist() == clips.cells[key][i].tolist()
        assert array.possible.sel(scene="s1").values.tolist() == (array.role < "C").values.tolist()
        assert array.property.sel(scene="s1").item() == "inertia" and array.sigma.sel(step=14).item() == 0.7
    assert array.possible.dtype == bool


def test_an_array_needs_whole_scenes_a_full_grid_and_one_width() -> None:
    clips = features()
    with pytest.raises(ValueError, match="got 1 scenes without some role, 0 missing cells"):
        clips.at(np.arange(11)).to_array()
    with pytest.raises(ValueError, match="got 0 scenes without some role, 1 missing cells"):
        replace(clips, cells={key: x for key, x in clips.cells.items() if key != (8, 1)}).to_array()
    with pytest.raises(ValueError, match=r"widths \[1, 2\]"):
        replace(clips, cells={(8, 0): np.ones((12, 1)), (8, 1): np.ones((12, 2))}).to_array()


def test_a_table_joins_roles_and_leaves_nan_where_a_scene_lacks_one() -> None:
    clips = features().at([0, 2, 4, 5, 9])  # s0: A, C; s1: A, B; s2: B
    values = clips.table(np.array([1.0, 2, 3, 4, 5]))
    assert values.dims == ("scene", "role") and values.role.values.tolist() == ["A", "C", "B"]
    expected = [[1, 2, np.nan], [3, np.nan, 4], [np.nan, np.nan, 5]]
    np.testing.assert_array_equal(values.values, expected)
    np.testing.assert_array_equal(values.possible.values, [[1, 0, np.nan], [1, np.nan, 1], [np.nan, np.nan, 1]])
    assert values.property.values.tolist() == LAWS and values.group.values.tolist() == ["s0", "s1", "s2"]
    with pytest.raises(ValueError, match=r"shape \(4,\) · expected one for each of the 5 clips"):
        clips.table(np.ones(4))


def test_a_table_needs_one_clip_of_each_role_and_one_property_in_a_scene() -> None:
    twice = table().assign(role=["A", "A", "C", "D", *ROLES, *ROLES])
    with pytest.raises(ValueError, match="got two clips of scene 's0' with role 'A'"):
        features(clips=twice).table(np.zeros(12))
    mixed = table().assign(property=["gravity", "inertia"] * 6)
    with pytest.raises(ValueError, match="got scenes with several properties"):
        features(clips=mixed).table(np.zeros(12))


def test_one_number_per_cell_lies_on_the_grid_with_nan_for_missing_cells() -> None:
    clips = features()
    kept = replace(clips, cells={key: x for key, x in clips.cells.items() if key != (14, 1)})
    grid = kept.over_cells(np.arange(5.0))
    np.testing.assert_array_equal(grid.values, [[0, 1, 2], [3, np.nan, 4]])
    assert grid.dims == ("step", "block") and grid.sigma.values.tolist() == [0.4, 0.7]
    ends = kept.over_cells(np.ones((5, 2)), {"bound": ["low", "high"]})
    assert ends.dims == ("step", "block", "bound") and ends.sizes["bound"] == 2


def test_a_probe_knows_where_it_would_read() -> None:
    reads = features().reads(14, 2)
    assert reads is not None
    assert (reads.point, reads.step, reads.sigma, reads.model) == ("blocks.2.hook_resid_post", 14, 0.7, "mini-wan")
    assert features(point="").reads(14, 2) is None
    # The features of one head are no whole activation of its hook point.
    heads = replace(features(), dims=("block", "head"), point="blocks.{block}.attn.hook_z", sigmas={14: 0.7})
    assert heads.reads(14, 2) is None
    fixed = Features({(5,): np.ones((12, 2))}, table(), ("block",), point=POINT, sigmas={14: 0.7})
    assert fixed.reads(5).step == 14 and replace(fixed, sigmas={}).reads(5) is None


def test_arrays_alone_make_features() -> None:
    x = np.arange(12.0).reshape(6, 2)
    clips = Features.of_arrays({"pixels": x}, [1, 0, None, 1, 0, 0], np.array([4, 4, 4, 9, 9, 9]), dims=("layer",))
    assert clips.clips.id.tolist() == ["4/0", "4/1", "4/2", "9/0", "9/1", "9/2"]
    assert clips.cell("pixels") is clips.cells["pixels",] and clips.groups.tolist() == [4, 4, 4, 9, 9, 9]
    assert clips.clips.possible.tolist() == [True, False, None, True, False, False]
    assert clips.labelled().table(np.arange(5.0)).sizes == {"scene": 2, "role": 3}


def test_tables_that_do_not_fit_are_refused() -> None:
    cells = features().cells
    with pytest.raises(ValueError, match=r"without columns \['property', 'possible'\]"):
        Features(cells, table().drop(columns=["property", "possible"]))
    with pytest.raises(ValueError, match=r"1 clip ids that occur more than once \(s0/A\)"):
        Features(cells, table().assign(id=["s0/A", *table().id[:-1]]))
    with pytest.raises(ValueError, match=r"1 clips without scene or group \(s0/B\)"):
        Features(cells, table().assign(group=["s0", None, *table().group[2:]]))
    with pytest.raises(ValueError, match=r"1 scenes whose clips are in several groups \(s1\)"):
        Features(cells, table().assign(group=["g"] * 6 + ["h"] * 6))
    with pytest.raises(ValueError, match="got labels 'yes', 'no'"):
        Features(cells, table().assign(possible=np.where(table().possible, "yes", "no")))
    with pytest.raises(ValueError, match="table of 0 clips"):
        features().at([])
    # Positive control: a group may hold several scenes.
    assert len(np.unique(Features(cells, table().assign(group=["g"] * 4 + ["h"] * 8)).groups)) == 2


def test_cells_that_do_not_fit_are_refused() -> None:
    clips = table()
    for cells, message in (
        ({}, "got no cells"),
        ({"pixels": np.ones((12, 2))}, r"have a key like 'pixels' · expected tuples along \('step', 'block'\)"),
        ({(1,): np.ones((12, 2))}, "expected tuples along"),
        ({(1, 2): np.ones((12, 3, 2))}, r"ndarray of shape \(12, 3, 2\) and dtype float64 in cell \(1, 2\)"),
        ({(1, 2): [[1.0]] * 12}, r"list of shape \(\) in cell \(1, 2\)"),
        ({(1, 2): np.ones((11, 2))}, r"got 11 rows in cell \(1, 2\) and 12 clips"),
    ):
        with pytest.raises(ValueError, match=message):
            Features(cells, clips)
    with pytest.raises(ValueError, match="a multiple of the parts"):
        features(parts=3)
    with pytest.raises(ValueError, match="expected a point that names these dimensions"):
        features(point="blocks.{layer}.hook_resid_post")


def test_consecutive_blocks_side_by_side() -> None:
    """Blocks 0, 1, 2 two by two: cells 1 and 2, of which no single hook point can be read."""
    whole = features()
    joined = whole.joined(2)
    assert list(joined.cells) == [(step, block) for step in (8, 14) for block in (1, 2)]
    np.testing.assert_array_equal(joined.cell(8, 2), np.hstack([whole.cell(8, 1), whole.cell(8, 2)]))
    assert joined.parts == 2 * whole.parts and joined.reads(14, 1) is None and whole.joined(1) is whole
    with pytest.raises(ValueError, match="got 4 values of block to join · expected 1 to 3"):
        whole.joined(4)
    with pytest.raises(ValueError, match="got 2 values of head to join · expected 1 to 0"):
        whole.joined(2, "head")
