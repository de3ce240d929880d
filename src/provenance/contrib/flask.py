"""Extension for Flask."""

from __future__ import annotations

from typing import Unpack

from flask import Flask

from provenance.contrib._exchange import Exchange, Options
from provenance.contrib.wsgi import ProvenanceMiddleware

__all__ = ["Provenance"]

_NAME = "provenance"


class Provenance:
    """Give every request of a Flask application a frame, and its response the request id.

    Use ``Provenance(app)``, or ``init_app`` in an application factory.

    Args:
        app: the application, if it exists already.
        options: the keywords of :class:`provenance.contrib.wsgi.ProvenanceMiddleware`.

    Raises:
        TypeError: an option is unknown or of the wrong type.
        ValueError: a header name is not one.
    """

    def __init__(self, app: Flask | None = None, **options: Unpack[Options]) -> None:
        Exchange(**options)  # a wrong option is reported here, where it was written
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Install the middleware around *app*; an application that has one already is left as it is."""
        if _NAME in app.extensions:
            return
        app.wsgi_app = ProvenanceMiddleware(app.wsgi_app, **self._options)  # type: ignore[method-assign]
        app.extensions[_NAME] = self
