"""The command line: one file a command, each a thin door to what the library does; `app.py` puts them together."""

from quintet.cli.interrupts import leave, on_ctrl_c


def main() -> None:
    """The program `quintet`."""
    with on_ctrl_c(leave):
        from quintet.cli.app import app, show_messages

        show_messages()
        app()
