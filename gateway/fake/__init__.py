"""A fake engine: a real socket server that speaks OpenAI's API and fails exactly as its script says.

In a test, in one process and one event loop:

    from gateway.fake.engine import FakeEngine
    from gateway.fake.script import Fault, Rule, Script

    async with FakeEngine(Script(rules=[Rule(match={"times": 1}, faults=[Fault(at="event 3", do="reset")])])) as engine:
        engine.url                        # "http://127.0.0.1:41234"
        engine.requests[0].json()         # what was asked; also .headers .phase .events .tokens .outcome .closed
        engine.journal.totals.open        # connections; also .accepted .started .finished .aborted .tokens ...
        await engine.arrived(2)           # two requests were read
        await engine.finished(1)          # one answer was sent to its end; returns those exchanges
        await engine.closed(1)            # one client left before that; returns those exchanges
        await engine.until(lambda: engine.requests[0].events >= 3, timeout=5)
        engine.set(Script(...))           # for requests from now on; engine.set(rules=[...]) is the short form
        await engine.down()               # resets its connections and refuses new ones
        await engine.up()                 # accepts connections on the same port again

Everything a script can say is in `gateway.fake.script`; docs/fake-engine.md shows it at work.
"""
