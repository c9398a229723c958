"""`review`: the page in which a person corrects captions."""

import webbrowser
from socket import socket
from typing import Annotated

import typer

from captioning.decoding.pool import open_pool
from captioning.errors import UsageError
from captioning.settings import Settings, read_settings
from captioning.store.captions import Selection, count_rows
from producer import render_pages
from producer.commands.shared import app, open_database
from producer.content import ContentReader
from producer.review import Session, serve
from producer.review.actions import Actions
from producer.review.server import listen

_LARGE = 1600  # pixels of the longer side in the large view


@app.command(epilog="Example: producer review --where 'path:holiday confidence<0.5'")
def review(
    where: Annotated[str, typer.Option("--where", metavar="QUERY", help="Only images that `search` finds.")] = "",
    port: Annotated[
        int | None, typer.Option(min=1024, max=65535, metavar="PORT", help="Default: 8377, or any that is free.")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page on this machine in which you accept, edit and reject captions with single keys.

    The least certain captions come first. Each edit is saved at once and can be undone. Only who has the link that this
    command prints can use the page. Ctrl-C stops the server; the page goes on when it is started again.
    """
    settings = read_settings()
    db = open_database(settings)
    if not count_rows(db, Selection(where=where)):
        raise UsageError("no image fits --where." if where else "there is nothing to review: `producer submit FOLDER`.")
    session, sockets = _listen(settings, port)
    pool = open_pool(settings, _LARGE, keep_aspect=True)
    actions = Actions(db, pool, _LARGE, ContentReader(settings), where)

    def on_ready() -> None:
        render_pages.print_review(session.link)
        if open_browser:
            webbrowser.open(session.link)

    try:
        serve(session, actions, sockets, on_ready)
    finally:
        pool.close()
        db.close()


def _listen(settings: Settings, port: int | None) -> tuple[Session, list[socket]]:
    """Return the session and the sockets of its port, or of another port if none was named and it is in use."""
    session = Session.open(settings.data_dir, port)
    try:
        sockets = listen(session.port)
    except OSError as error:
        if port is not None:
            raise UsageError(f"--port {port} cannot be used: {error.strerror}. Name another port.") from None
        sockets = listen(0)
        return Session.new(sockets[0].getsockname()[1]), sockets
    session.save(settings.data_dir)
    return session, sockets
