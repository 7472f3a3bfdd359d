"""The command line: words in, tables or one JSON document out.

One file per noun; `cli.main` puts them together. No package imports this one. Nothing heavy
(Prefect, pyarrow, the simulator) is imported before a command needs it, so that help and mistakes
answer at once.
"""

__all__: list[str] = []
