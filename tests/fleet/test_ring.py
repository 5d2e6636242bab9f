"""The ring of an engine's last lines: what it keeps, and what readers get who are slow, early, or at another ring."""

import asyncio

from gateway.fleet.ring import PAGE, Page, Position, Ring


def texts(page: Page) -> list[str]:
    return [line.text for line in page.lines]


async def read(ring: Ring, at: Position) -> Page:
    return await ring.read(at, 0.0)


def after(page: Page) -> Position:
    return Position(page.ring, page.next)


def filled(count: int, lines: int = 100, characters: int = 10**6) -> Ring:
    ring = Ring(lines, characters)
    for number in range(count):
        ring.add("line", str(number))
    return ring


async def test_the_last_lines_and_then_what_comes() -> None:
    ring = filled(5)
    page = await read(ring, Position(0, 2))
    assert (texts(page), page.lost) == (["3", "4"], 0)
    assert texts(await read(ring, after(page))) == []
    ring.add("end", "exit status 1")
    page = await read(ring, after(page))
    assert [(line.kind, line.text) for line in page.lines] == [("end", "exit status 1")]
    assert texts(await read(ring, Position(0, 0))) == []
    assert len((await read(ring, Position(0, 1000))).lines) == 6


async def test_lines_are_bounded_in_number_and_together() -> None:
    page = await read(filled(25, lines=10), Position(0, 1000))
    assert texts(page) == [str(number) for number in range(15, 25)]
    ring = Ring(100, 10)
    for letter in "abcd":
        ring.add("line", letter * 4)
    assert texts(await read(ring, Position(0, 100))) == ["cccc", "dddd"]
    ring.add("line", "x" * 50)
    assert texts(await read(ring, Position(0, 100))) == ["x" * 50]


async def test_a_slow_reader_is_told_how_many_lines_it_has_lost() -> None:
    ring = filled(3, lines=10)
    page = await read(ring, Position(0, 100))
    for number in range(3, 30):
        ring.add("line", str(number))
    page = await read(ring, after(page))
    assert page.lost == 17
    assert texts(page) == [str(number) for number in range(20, 30)]
    assert (await read(ring, after(page))).lost == 0


async def test_much_is_given_in_pages_and_a_long_line_whole() -> None:
    ring = Ring()
    for letter in "abc":
        ring.add("line", letter * PAGE)
    page = await read(ring, Position(0, 3))
    found = texts(page)
    while page.lines:
        page = await read(ring, after(page))
        assert len(page.lines) <= 2
        found += texts(page)
    assert found == [letter * PAGE for letter in "abc"]


async def test_another_ring_is_read_from_its_first_line_and_nothing_counts_as_lost() -> None:
    old, new = filled(50), filled(3)
    page = await read(new, after(await read(old, Position(0, 10))))
    assert (texts(page), page.lost) == (["0", "1", "2"], 0)


async def test_several_readers_wait_and_all_get_the_line() -> None:
    ring = filled(1)
    at = after(await read(ring, Position(0, 1)))
    readers = [asyncio.create_task(ring.read(at, 30)) for _ in range(3)]
    await asyncio.sleep(0)
    ring.add("line", "news")
    for page in await asyncio.wait_for(asyncio.gather(*readers), 5):
        assert texts(page) == ["news"]


async def test_a_reader_that_gives_up_leaves_nothing_behind() -> None:
    ring = filled(1)
    at = after(await read(ring, Position(0, 1)))
    assert texts(await ring.read(at, 0.01)) == []
    reader = asyncio.create_task(ring.read(at, 30))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    assert ring._waiting == []


async def test_a_page_survives_the_link_between_processes() -> None:
    page = await read(filled(3), Position(0, 2))
    assert Page.of(page.plain()) == page
