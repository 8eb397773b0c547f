"""`python -m pipelines.cli`: the command as a module, for torchrun and for subprocesses."""

from pipelines.cli.app import main

main()
