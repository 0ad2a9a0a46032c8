"""diffusers' own pipeline tests, once as they are and once with a lens on every pipeline.

`python -m benchmarks.diffusers_suite CHECKOUT --family wan ltx` runs the tests of these families (all unless given) in
a checkout of diffusers against the diffusers that is installed, twice: stock, and with read-only and identity hooks
active around every call of a pipeline that a lens takes. It ends with 1 where a test that passed without a lens fails
with it. `pip install -e ".[neighbours]"` brings what those tests import.

passed, with lens  tests that passed in either run
calls              of pipelines in all tests, and how many of them were hooked
equal              hooked calls that put out what the stock ones did, to the bit
refused            calls of pipelines that the lens says it does not take, before or at the first evaluation; they ran
                   without hooks, and their tests went on

Nothing is fetched: small text encoders that the tests ask the hub for are stood in for by random ones (`stand_ins`), so
that tests which compare with numbers written down for the hub's fail in both runs. In both, CogVideoX has the scheduler
of its checkpoints, Cosmos Predict 2 and 2.5 have no learned positions, as theirs, and two functions of torchvision are
stood in for where it is not installed (`resizing`).
Tests for accelerators and slow ones skip themselves.
"""
