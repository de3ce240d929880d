"""What the walk through the application would notice if something were wrong."""

from __future__ import annotations

import logging

import attrs
import pytest

from provenance.examples.zmanim.walkthrough import Story, walk


@pytest.fixture
def story(provenance_dsn: str) -> Story:
    """A walk that was made."""
    return walk(provenance_dsn)


def _with_first(story: Story, **changes: object) -> Story:
    front = story.fronts[0]
    exchanges = (attrs.evolve(front.exchanges[0], **changes), *front.exchanges[1:])
    return attrs.evolve(story, fronts=(attrs.evolve(front, exchanges=exchanges), *story.fronts[1:]))


def test_each_deviation_is_a_sentence(story: Story) -> None:
    """Statuses, echoed ids, roots and tallies are all compared."""
    assert [] == story.problems()
    assert ["Flask, link dawn: expected status 201, got 200"] == _with_first(story, status=200).problems()
    assert ["Flask, link dawn: the response does not carry the request's X-Request-ID"] == (
        _with_first(story, echoed=None).problems()
    )
    assert ["Flask, link dawn: expected one action with everything it caused, found 0"] == (
        _with_first(story, trees=()).problems()
    )
    zmanim, notifications = story.tallies
    assert ["12 rows in publisher_zmanim name 11 completed actions as their makers, and the trail has 12"] == (
        attrs.evolve(story, tallies=(attrs.evolve(zmanim, matched=11), notifications)).problems()
    )


def test_each_deviation_of_the_journey_is_a_sentence(provenance_dsn: str) -> None:
    """Rows without an id, other places, a view that was not stale or not refreshed, and other makers."""
    told = list[tuple[int, int]]()
    story = walk(provenance_dsn, cities=10, progress=lambda done, total: told.append((done, total)))
    journey = story.journey
    assert journey is not None
    assert [] == journey.problems()
    assert [(3500, 3500)] == told
    assert ["3499 of 3500 rows of coverage were given ids"] == (
        attrs.evolve(journey, moved=attrs.evolve(journey.moved, rows=3499)).problems()
    )
    [sentence] = attrs.evolve(journey, locations=journey.locations[::-1]).problems()
    assert sentence.endswith(
        "got Vila > Andorra > Europe; Lakewood > New Jersey > United States > North America; Jerusalem > Israel > Asia"
    )
    [sentence] = attrs.evolve(story, journey=attrs.evolve(journey, stale=journey.refreshed)).problems()
    assert sentence.startswith("expected Lakewood > New Jersey > United States > North America and after the refresh ")
    [sentence] = attrs.evolve(journey, blame=()).problems()
    assert sentence == "the row of coverage names other actions as its makers: {}"


def test_the_walk_quietens_only_itself(story: Story) -> None:
    """Afterwards the loggers of the servers are as they were."""
    assert {logging.NOTSET} == {
        logging.getLogger(name).level
        for name in ("uvicorn.error", "provenance.examples.zmanim.flask_app", "provenance.examples.zmanim.wsgi_app")
    }
