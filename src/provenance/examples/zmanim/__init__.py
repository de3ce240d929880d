"""The reference application: publishers of zmanim, the times of the Jewish day.

A publisher links a master definition, and then follows it, or copies it, and then has a formula of its own.
:mod:`.service` is the application; :mod:`.flask_app`, :mod:`.starlette_app` and :mod:`.wsgi_app` serve it over HTTP, and
:mod:`.walkthrough` is what ``provenance demo`` plays.
"""
