"""The nemesis: workers that act all the time, what is done to them, and a judge who reads what became of it from the data.

``python -m tests.nemesis --seconds 60 --seed 1``. Workers of both colours open blocks of every kind on a durable server of
the run's own, all with an intent. Meanwhile workers and recoveries are killed, connections terminated, lines cut before,
during and after a COMMIT, the journal is out of reach, actions are given an outcome while they are under way, and the server
crashes. At the end of each round everybody is killed, the spool replayed and everything recovered. Then must hold, of the
rows in ``ledger``, each of which names the action that wrote it, of the trail, and of what the workers said:

- I1: committed work has a completed action; I2: all the work of a completed action is there; I4: no other action has any.
  These three are looked at while everything is under way, too.
- I3: nothing is pending or unknown, no evidence is left over, and nothing that had begun is lost. Work outside the database
  whose process was killed is the exception: nobody can know, so it shows as unknown until a person says.
- I5: what the caller was told is so. An action is refused as settled only if somebody has settled it.
- Parents, roots and kinds are as they were begun, and nothing is completed inside what is not.

``mutants.py`` has broken variants that must be found out, each by the faults that provoke it. Others are found by the state
machine in ``tests/protocol`` already, sooner and without a crash, and are not here again:

====================================================  ==========================================================
failure written on the aborted connection, swallowed  ``protocol/mutants.py`` (with an intent, recovery makes up
                                                      for it: ``rolled_back``, but not why)
buffered inner rows without the done-marker           ``protocol/mutants.py``: ``no_done_marker``
the final INSERT without its guard                    ``protocol/mutants.py``: ``no_guard_on_the_terminal_insert``
a failed inner block, or the outer one, undoes        ``protocol/mutants.py``
nothing
``SET`` for the session on the journal                needs a pooler in transaction mode between; nothing here can
                                                      notice it
====================================================  ==========================================================
"""
