"""Small videos for tests: noise frames, lossless mp4 files of them, and ffmpeg itself, to write and to judge others."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

# One thread and a picture of a block at least, or x265 may abort.
X265 = ("-x265-params", "log-level=error:pools=none:frame-threads=1", "-s", "96x64")


def noise(count: int, seed: int = 0, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def write_mp4(path: Path, frames: np.ndarray, fps: int = 30) -> Path:
    """A mp4 file of exactly these frames, its index in front."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264rgb", rate=fps, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def ffmpeg(*arguments: str | Path) -> bytes:
    """What ffmpeg writes to its standard output; it fails where ffmpeg does."""
    command = [get_ffmpeg_exe(), "-v", "error", "-y", "-nostdin", "-threads", "1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def write_with_ffmpeg(path: Path, *options: str, count: int = 8, size: str = "48x32", rate: int = 25) -> Path:
    """A video of a moving test picture."""
    picture = f"testsrc2=size={size}:rate={rate}:duration={count / rate}"
    ffmpeg("-f", "lavfi", "-i", picture, *options, path)
    return path


def shown(path: Path, *options: str) -> np.ndarray:
    """The frames (F, H, W, 3) that ffmpeg decodes: what others think of a file."""
    how = ("-map", "0:v:0", *options, "-fps_mode", "passthrough", "-sws_flags", "bilinear", "-pix_fmt", "rgb24")
    pictures, frames = ffmpeg("-i", path, *how, "-c:v", "ppm", "-f", "image2pipe", "-"), []
    while header := re.match(rb"P6\n(\d+) (\d+)\n255\n", pictures):
        width, height = int(header[1]), int(header[2])
        begin, end = header.end(), header.end() + 3 * width * height
        frames.append(np.frombuffer(pictures[begin:end], np.uint8).reshape(height, width, 3))
        pictures = pictures[end:]
    return np.stack(frames)
