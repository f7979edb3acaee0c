"""`python -m spawner`: the command line, where the installed script is not on PATH."""

from spawner.cli import main

if __name__ == "__main__":
    main(prog_name="spawner")
