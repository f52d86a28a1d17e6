"""The views of a burst, which C makes all at once, show the right bytes and keep them alive."""

import contextlib
import gc
import sys
import weakref

import numpy as np
import pytest
from nic_harness._native import ffi
from nic_harness._views import views

CONTENTS = [bytes([i]) * (60 + i) for i in range(100)]


class Owner:
    """An owner of bytes, in place of the chains."""

    def __init__(self, contents=CONTENTS):
        self.data = [ffi.new("char[]", content) for content in contents]


def described(owner, segments=1):
    """Return the struct frame[] as a buffer."""
    frames = ffi.new("struct frame[]", len(owner.data))
    for frame, data in zip(frames, owner.data, strict=True):
        frame.data, frame.data_len, frame.nsegs = data, len(data) - 1, segments
    return ffi.buffer(frames)


def views_of(owner):
    return views(owner, described(owner))


def test_a_view_for_each_frame():
    owner = Owner()
    made = views_of(owner)
    assert made == CONTENTS
    assert all(isinstance(view, memoryview) and view.format == "B" for view in made)
    made[7][0] = 0xFF
    assert ffi.buffer(owner.data[7])[:] == b"\xff" + CONTENTS[7][1:] + b"\0"


@pytest.mark.parametrize("segments", [0, 2, 17])
def test_none_for_a_frame_in_pieces(segments):
    owner = Owner()
    assert views(owner, described(owner, segments)) == [None] * len(CONTENTS)


def test_no_frames():
    owner = Owner()
    assert views(owner, b"") == []
    assert views(owner, bytes(described(owner))[:-1]) == CONTENTS[:-1]


def slice_of(view):
    return view[3:7]


def array_on(view):
    return np.frombuffer(view, "u1")[3:]


@pytest.mark.parametrize("part_of", [slice_of, array_on, memoryview, memoryview.toreadonly])
def test_any_part_keeps_the_owner(part_of):
    owner = Owner()
    gone = weakref.ref(owner)
    made = views_of(owner)
    part = part_of(made[5])
    del owner, made
    assert bytes(part[:3]) == CONTENTS[5][:3]
    assert gone() is not None
    del part
    assert gone() is None


def test_a_released_view_keeps_nothing_and_its_slice_does():
    owner = Owner()
    gone = weakref.ref(owner)
    made = views_of(owner)
    kept = made[5][-4:]
    del owner
    for view in made:
        view.release()
    assert kept == CONTENTS[5][-4:]
    kept.release()
    assert gone() is None
    with pytest.raises(ValueError, match="released"):
        made[5][0]


def test_what_the_views_are_of_has_no_bytes_of_its_own():
    view = views_of(Owner())[0]
    for use in (memoryview, bytes, lambda pages: np.frombuffer(pages, "u1")):
        with pytest.raises((BufferError, TypeError)):
            use(view.obj)
    with pytest.raises(TypeError, match="cannot create"):
        type(view.obj)()
    pages = view.obj
    del view
    with pytest.raises(BufferError, match="take a slice"):
        memoryview(pages)


@pytest.mark.parametrize("args", [(), (None,), (None, "text"), (None, None), (None, b"", 1)])
def test_wrong_arguments(args):
    with pytest.raises(TypeError):
        views(*args)


def test_a_collection_while_views_are_made_finds_nothing_half_made():
    owner = Owner()
    good = []

    def look(_phase, _info):
        for thing in gc.get_objects():
            if type(thing) is memoryview and type(thing.obj).__name__ == "Pages":
                with contextlib.suppress(BufferError):  # all are made
                    good.append(bytes(memoryview(thing.obj)) in CONTENTS)
            elif type(thing) is list and thing and type(thing[-1]) is memoryview:
                good.append(thing == CONTENTS[: len(thing)])

    threshold = gc.get_threshold()
    gc.callbacks.append(look)
    gc.set_threshold(50)
    try:
        made = views_of(owner)
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(look)
    assert made == CONTENTS
    if not good and sys.version_info >= (3, 12):
        pytest.skip("this Python collects between instructions only: never inside of views()")
    assert good
    assert all(good)


def test_nothing_is_left():
    owner = Owner()
    frames, pieces = described(owner), described(owner, 2)

    def all_of_it():
        for _ in range(100):
            made = views(owner, frames)
            made[3][4:5].release()
            views(owner, pieces)
            with contextlib.suppress(TypeError):
                views(owner, None)
            with contextlib.suppress(BufferError):
                memoryview(made[0].obj)

    all_of_it()
    references = [sys.getrefcount(thing) for thing in (owner, frames, pieces)]
    blocks = sys.getallocatedblocks()
    all_of_it()
    assert [sys.getrefcount(thing) for thing in (owner, frames, pieces)] == references
    assert sys.getallocatedblocks() - blocks < 100  # what leaks, leaks in each turn
