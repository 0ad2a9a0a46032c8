"""Released checkpoints and benchmarks in small: the files, names and settings that users have on disk, random inside.

- `checkpoints`: pipelines of six releases as the hub has them, a few thousand parameters each;
- `tokenizers`: the tokenizers of these releases, trained on the spot;
- `intphys`: IntPhys 2019 with scenes that break at different frames, once or twice, in sight or hidden;
- `scenes`: clips of moving objects, and what is true of them;
- `videos`: InfLevel, GRASP, LikePhys, IntPhys 2, and a folder of one's own, as mp4 files;
- `fixtures`: all of these once per test session (`pytest_plugins = ("released.fixtures",)`).
"""
