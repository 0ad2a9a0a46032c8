"""Where the objects of miniphys are in frames that a model made: position, colour, shape and size of each.

Objects are saturated and scenery is nearly grey. A frame's chroma (what is left of a colour without its grey) is
split into regions of one palette colour; each region is explained by rendering: the position, radius and shape whose
drawn outline comes nearest to the region's coverage in least squares, with a sharp edge or a soft one. Where a whole
outline fits badly and there is something dark on one side, outlines are fitted that something hides from there on.
A gate (a thin upright line) is told from objects by its height, and an object of two colours that passes it is one.

Lengths are in world pixels: a frame is 32 x 32 of them at any resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from dit_lens.clips import Clip
from dit_lens.datasets.miniphys.rendering import distance
from dit_lens.datasets.miniphys.scenes import PALETTE, SHAPES, UNSEEN_SHAPES, WORLD, Scene

STRONG = 0.5  # coverage from which on a pixel belongs to an object
SMALLEST, SPECK = 1.0, 3.0  # least visible area, and that of a region beside another (a mixed edge makes a third colour)
GATE = 0.4  # coverage of a column, averaged over its height, that no object reaches
DARK = 0.43  # occluders, floors and walls are darker than this, backgrounds (but for their texture) lighter
ROUGH = 0.06  # root mean square residual of a fit that asks for another explanation (sensor noise alone: 0.035)
HIDES = 1.5  # by how much a hidden outline must fit better than a whole one
RADII, TYPICAL, PRIOR = (1.0, 4.5), 2.9, 0.02  # where nothing tells a radius, it is an object's typical one
SOFT = 2.0  # width of a soft edge; a sharp one is a pixel wide
REACH = 3.0  # how far a detection may lie from an object to count as its own
AREAS = {"disc": np.pi, "square": 3.24, "triangle": 1.62, "diamond": 2.88, "cross": 2.56}  # at radius 1
BESIDE = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Detection:
    """One object seen in one frame.

    Attributes:
        position: centre (x to the right, y down) in world pixels; of the whole outline also where part is hidden.
        colour, shape: names.
        radius: in world pixels, as `rendering.distance` has it.
        whole: nothing (occluder, edge of the frame, another object) hides a part of it.
        area: what is seen of it, in world pixels squared.
        residual: root mean square of what the fit leaves; 0.035 on clean frames, 0.1 and more where blurred.
    """

    position: tuple[float, float]
    colour: str
    shape: str
    radius: float
    whole: bool
    area: float
    residual: float = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Frame:
    """Coverage of each pixel by each colour, the best colour and its coverage, grey, and the gate's columns."""

    coverage: Float[np.ndarray, "H W k"]
    label: Int[np.ndarray, "H W"]
    strength: Float[np.ndarray, "H W"]
    grey: Float[np.ndarray, "H W"]
    gate: Int[np.ndarray, " g"]
    scale: float


@dataclass(frozen=True, eq=False)
class _Fit:
    outline: np.ndarray
    shape: str
    residual: float
    weight: np.ndarray
    side: int = -1


def find_objects(
    frame: UInt8[np.ndarray, "H W 3"] | Float[np.ndarray, "H W 3"],
    colours: Sequence[str] = tuple(PALETTE),
    shapes: Sequence[str] = (*SHAPES, *UNSEEN_SHAPES),
) -> list[Detection]:
    """The objects in one frame, the largest first.

    Args:
        frame: uint8, or floats about [0, 1]; square.
        colours, shapes: names that come into question. The fewer, the surer.

    Raises:
        ValueError: not a square RGB frame.
    """
    if frame.ndim != 3 or frame.shape[0] != frame.shape[1] or frame.shape[2] != 3:
        raise ValueError(f"got a frame of shape {frame.shape} · expected (H, H, 3) · of a clip, take one frame or track")
    seen, regions = _segment(np.asarray(frame, float) / (255 if frame.dtype == np.uint8 else 1), colours)
    objects = np.logical_or.reduce([np.zeros_like(seen.label, bool), *regions])
    found = []
    for region in regions:
        others = objects & ~region
        area = float(np.clip(seen.strength[region], 0, 1).sum()) * seen.scale**2
        if area >= (SPECK if (ndimage.binary_dilation(region, BESIDE) & others).any() else SMALLEST):
            found.append(_explain(seen, region, others, area, colours, shapes))
    return sorted(found, key=lambda detection: -detection.radius)


def _segment(image: np.ndarray, colours: Sequence[str]) -> tuple[_Frame, list[np.ndarray]]:
    """The frame as seen by colour, and masks of its regions."""
    base = np.array([PALETTE[colour] for colour in colours])
    base = base - base.mean(1, keepdims=True)
    length = np.linalg.norm(base, axis=1)
    aligned = (image - image.mean(-1, keepdims=True)) @ (base / length[:, None]).T
    label, coverage = aligned.argmax(-1), aligned / length
    strength = np.take_along_axis(coverage, label[..., None], -1)[..., 0]
    heights = [(np.clip(strength, 0, 1) * (label == c)).mean(0) for c in range(len(colours))]
    tall = np.max(heights, 0) > GATE
    strong = strength > STRONG
    strong &= ~(tall & (label == np.argmax(heights, 0)))
    masks = []
    for colour in np.unique(label[strong]):
        numbers, count = ndimage.label(strong & (label == colour), BESIDE)
        masks += [numbers == i + 1 for i in range(count)]
    gate = np.flatnonzero(tall)
    seen = _Frame(coverage, label, strength, image.mean(-1), gate, WORLD / len(image))
    return seen, _join(masks, gate) if len(gate) else masks


def _join(masks: list[np.ndarray], gate: np.ndarray) -> list[np.ndarray]:
    """Regions that meet at the gate are one."""
    before, behind = max(gate[0] - 1, 0), min(gate[-1] + 1, masks[0].shape[1] - 1) if masks else 0
    passing = [mask for mask in masks if mask[:, before : behind + 1].any()]
    if not passing:
        return masks
    both = np.logical_or.reduce(passing)
    both[:, gate] |= (both[:, before] & both[:, behind])[:, None]
    numbers, count = ndimage.label(both, BESIDE)
    apart = [mask for mask in masks if not mask[:, before : behind + 1].any()]
    return apart + [numbers == i + 1 for i in range(count)]


def _explain(
    seen: _Frame, region: np.ndarray, others: np.ndarray, area: float, colours: Sequence[str], shapes: Sequence[str]
) -> Detection:
    """The outline that explains a region best."""
    scale, size = seen.scale, len(region)
    box = ndimage.find_objects(region.astype(int))[0]
    pad = round(2 / scale)
    window = tuple(slice(max(part.start - pad, 0), min(part.stop + pad, size)) for part in box)
    y, x = (np.arange(part.start, part.stop) for part in window)
    inside = region[window]
    coverage, weight = _coverage(seen, region, others, window)
    ys, xs = (y + 0.5) * scale, (x + 0.5) * scale
    mass = inside * np.clip(coverage, 0, 1)
    centre = np.array([(mass * xs).sum(), (mass * ys[:, None]).sum()]) / mass.sum()
    half = max(part.stop - part.start for part in box) * scale / 2
    starts = np.array([[*centre, r] for r in (half, np.sqrt(area / 2.5))])
    best = _best(coverage, weight[None], starts, xs, ys, scale, scale, shapes)
    if best.residual > ROUGH:
        soft = _best(coverage, weight[None], starts, xs, ys, scale, SOFT, shapes)
        best = min(best, soft, key=lambda fit: fit.residual)
        cuts = _cuts(seen, region, box, centre, x, y, weight)
        if cuts is not None:
            hidden = _best(coverage, *cuts, xs, ys, scale, scale, shapes)
            best = hidden if HIDES * hidden.residual < best.residual else best
    drawn = _draw(best.shape, best.outline[None], xs, ys, scale)[0]
    in_gate = np.isin(x, seen.gate) & inside.any(0)
    share = (drawn * np.maximum(best.weight, in_gate)).sum() * scale**2 / (AREAS[best.shape] * best.outline[2] ** 2)
    px, py = (int(np.clip(v / scale, 0, size - 1)) for v in best.outline[:2])
    names, counts = np.unique(seen.label[region], return_counts=True)
    colour = seen.label[py, px] if region[py, px] else names[counts.argmax()]
    return Detection(
        position=(float(best.outline[0]), float(best.outline[1])),
        colour=colours[colour],
        shape=best.shape,
        radius=float(best.outline[2]),
        whole=best.side < 0 and bool(share > 0.95),
        area=area,
        residual=best.residual,
    )


def _coverage(seen: _Frame, region: np.ndarray, others: np.ndarray, window) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the object covers, its scenery's own tint taken off, and which pixels can tell."""
    kinds = np.unique(seen.label[region])
    coverage = seen.coverage[window][..., kinds]
    thick = round(1 / seen.scale)
    besides = ndimage.binary_dilation(others[window], BESIDE, iterations=thick) & ~region[window]
    scenery = ~ndimage.binary_dilation(region[window] | others[window], BESIDE, iterations=thick)
    tint = np.zeros_like(coverage)
    dark = seen.grey[window] < DARK
    for part in (dark, ~dark):
        if (scenery & part).sum() > 4:
            tint[part] = np.median(coverage[scenery & part], axis=0)
    weight = ~besides
    if len(seen.gate):
        columns = np.arange(max(seen.gate[0] - 1, 0), min(seen.gate[-1] + 2, len(region)))
        here = np.isin(np.arange(len(region))[window[1]], columns)
        lines = np.median(seen.coverage[..., kinds], axis=0)[window[1]]
        tint[:, here] = lines[here]
        weight = weight & (tint.max(-1) < STRONG)
    return np.clip((coverage - tint) / (1 - np.minimum(tint, STRONG)), -0.2, 1.2).max(-1), weight.astype(float)


def _cuts(seen: _Frame, region: np.ndarray, box, centre, x, y, weight) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights and starts of outlines that are hidden on one side of the region, for each side where it is dark."""
    scale, dark = seen.scale, seen.grey < DARK
    ring = ndimage.binary_dilation(region, BESIDE, iterations=round(2 / scale))
    ring &= ~ndimage.binary_dilation(region, BESIDE, iterations=round(1 / scale))
    if dark[ring].mean() > 0.75:
        return None
    gy, gx = np.indices(region.shape)
    weights, starts = [], []
    for axis, grid, line in ((0, gx, x[None, :]), (1, gy, y[:, None])):
        span = box[1 - axis]
        across = ((gy, gx)[axis] >= box[axis].start) & ((gy, gx)[axis] < box[axis].stop)
        for way, edge, far in ((1, span.stop, span.start), (-1, span.start, span.stop)):
            beyond = ring & across & (grid >= edge if way > 0 else grid < edge)
            if not beyond.any() or not dark[beyond].mean() > 0.5:
                continue
            keep = weight * (line < edge - 1 if way > 0 else line > edge)
            for r in (1.8, 2.6, 3.2):
                start = np.array([*centre, r])
                start[axis] = far * scale + way * r
                weights.append(keep)
                starts.append(start)
    return (np.array(weights), np.array(starts)) if starts else None


def _best(coverage, weights, starts, xs, ys, scale, edge, shapes) -> _Fit:
    weights = np.broadcast_to(weights, (len(starts), *weights.shape[1:]))
    fits = []
    for shape in shapes:
        outlines, residuals = _descend(shape, starts, coverage, weights, xs, ys, edge)
        k = int(residuals.argmin())
        fits.append(_Fit(outlines[k], shape, float(residuals[k]), weights[k], side=-1))
    return min(fits, key=lambda fit: fit.residual)


def _draw(shape: str, outlines: np.ndarray, xs: np.ndarray, ys: np.ndarray, edge: float) -> np.ndarray:
    x, y, radius = (outlines[:, i, None, None] for i in range(3))
    return np.clip(0.5 - distance(shape, radius, xs - x, ys[:, None] - y) / edge, 0, 1)  # type: ignore[arg-type]


def _descend(shape, outlines, coverage, weights, xs, ys, edge, steps: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Levenberg-Marquardt from several starts at once."""
    count, delta = len(outlines), 0.1
    moves = np.concatenate([np.zeros((1, 3)), delta * np.eye(3)])
    weights, pixels = weights.reshape(count, -1), np.maximum(weights.sum((1, 2)), 1)
    best, cost, damping = outlines, np.full(count, np.inf), np.full(count, 0.01)
    slopes = np.zeros((count, 3, weights.shape[1]))
    rest = np.zeros_like(weights)
    for _ in range(steps):
        drawn = _draw(shape, (outlines[:, None] + moves).reshape(-1, 3), xs, ys, edge).reshape(count, 4, -1)
        left = (coverage.reshape(1, -1) - drawn[:, 0]) * weights
        total = (left**2).sum(1) + PRIOR * (outlines[:, 2] - TYPICAL) ** 2
        better = total < cost
        best, cost = np.where(better[:, None], outlines, best), np.where(better, total, cost)
        slopes[better] = ((drawn[:, 1:] - drawn[:, :1]) / delta * weights[:, None])[better]
        rest[better] = left[better]
        damping = np.where(better, damping / 4, damping * 8)
        pull = (slopes @ rest[..., None])[..., 0] + PRIOR * (TYPICAL - best[:, 2])[:, None] * np.eye(3)[2]
        curve = slopes @ slopes.transpose(0, 2, 1) + PRIOR * np.diag(np.eye(3)[2])
        curve = curve + (damping * (np.trace(curve, axis1=1, axis2=2) / 3))[:, None, None] * np.eye(3)
        step = np.linalg.solve(curve, pull[..., None])[..., 0].clip(-1, 1)
        if np.abs(step).max() < 0.003:
            break
        outlines = best + step
        outlines[:, 2] = outlines[:, 2].clip(*RADII)
    return best, np.sqrt(cost / pixels)


def visible(clip):
    scene = Scene(**clip.factors["scene"])
    n = len(scene.distractors)
    step = 0.5
    c = np.arange(-8 + step / 2, 40, step)
    X, Y = c[None, None, :], c[None, :, None]
    inframe = (X > 0) & (X < WORLD) & (Y > 0) & (Y < WORLD)
    centre, width = scene.occluder
    t = np.asarray(scene.top)[:, None, None]
    occ = (np.abs(X - centre) < width / 2) & ((Y < WORLD - t) if scene.hanging else (Y > t))
    free = inframe & np.ones((17, 1, 1), bool)
    K = len(clip.tracks)
    out = np.zeros((K, 17))
    order = list(reversed(range(K - n, K))) + ["occ"] + list(range(K - n))  # front first
    for k in order:
        if k == "occ":
            free = free & ~occ
            continue
        tr = clip.tracks[k]
        for f in range(17):
            if not tr.present[f]:
                continue
            m = distance(tr.shape[f], tr.radius[f], c[None, :] - tr.position[f, 0], c[:, None] - tr.position[f, 1]) < 0
            out[k, f] = (m & free[f]).sum() / max(m.sum(), 1)
            free[f] &= ~m
    return out


@dataclass
class Match:
    frame: int
    track: int
    visible: float
    radius: float
    truth: tuple
    found: Detection | None
    error: float


def score(found, clip):
    vis = visible(clip)
    out = []
    for f, dets in enumerate(found):
        ks = [k for k in range(len(clip.tracks)) if vis[k, f] > 0]
        D = np.array([[np.hypot(*(np.array(d.position) - clip.tracks[k].position[f])) for d in dets] for k in ks]).reshape(len(ks), len(dets))
        rows, cols = linear_sum_assignment(np.minimum(D, 4)) if D.size else ([], [])
        pair = {i: j for i, j in zip(rows, cols) if D[i, j] < 4}
        for i, k in enumerate(ks):
            tr = clip.tracks[k]
            d = dets[pair[i]] if i in pair else None
            out.append(Match(f, k, vis[k, f], tr.radius[f], (tr.colour[f], tr.shape[f], tuple(tr.position[f])), d, D[i, pair[i]] if i in pair else np.nan))
        for j, d in enumerate(dets):
            if j not in pair.values():
                out.append(Match(f, -1, 0, np.nan, (), d, np.nan))
    return out
