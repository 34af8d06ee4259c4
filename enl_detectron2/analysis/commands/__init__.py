"""What `enl` and the files of tools/ run: a module with a ``main`` for each subcommand."""
