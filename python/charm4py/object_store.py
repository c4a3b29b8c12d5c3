"""A store of objects that all PEs share: a group, each of whose elements keeps objects, and knows where others are.

An object has a number, and by that a *home*, the PE ``number % numPes``, which knows on which PEs it is. An object that is asked for before it
is there is sent when it has come. Objects are passed on as they are; on the PE where they were made they are the same objects.
"""

from __future__ import annotations

from typing import Any, Callable

from . import state
from .chare import Chare

Waiters = dict[int, list[Any]]


class ObjectStore(Chare):
    """Make a ``Group`` of it. Calls may come in any order."""

    def __init__(self) -> None:
        self.objects: dict[int, Any] = {}
        #: Where an object is: first the PE on which it was made. The home's list has all of them.
        self.locations: dict[int, list[int]] = {}
        #: PEs that have asked this one for an object, the home for an object, or for a location, which is not there yet.
        self.object_requests: Waiters = {}
        self.home_requests: Waiters = {}
        self.location_requests: Waiters = {}
        #: What is called on this PE when an object is here, or when it is anywhere.
        self.arrivals: Waiters = {}
        self.sightings: Waiters = {}
        #: Objects that nobody wants any more, and that are still to come.
        self.unwanted: set[int] = set()

    # Making and deleting

    def create_object(self, obj_id: int, obj: Any) -> None:
        """Keeps an object on this PE, and tells its home."""
        self.receive_remote_object(obj_id, obj)
        self.tell(home(obj_id), obj_id)

    def insert_object_small(self, obj_id: int, obj: Any) -> None:
        """Keeps an object on its home, which is called."""
        self.receive_remote_object(obj_id, obj)
        self.update_location(obj_id, this_pe())

    def delete_object(self, obj_id: int) -> None:
        """Forgets an object, if it is on this PE."""
        self.objects.pop(obj_id, None)

    def delete_remote_objects(self, obj_id: int) -> None:
        """Forgets an object on all PEs: called on its home."""
        places = self.locations.pop(obj_id, None)
        if places is None:
            self.unwanted.add(obj_id)
        for pe in places or ():
            self.thisProxy[pe].delete_object(obj_id)

    # Looking

    def lookup_object(self, obj_id: int) -> Any:
        """The object, if it is on this PE; otherwise ``None``."""
        return self.objects.get(obj_id)

    def lookup_location(self, obj_id: int) -> int:
        """A PE on which the object is, if this PE knows; otherwise -1, and the home is asked."""
        places = self.locations.get(obj_id)
        if places:
            return places[0]
        self.thisProxy[home(obj_id)].request_location(obj_id, this_pe())
        return -1

    # Asking

    def request_object(self, obj_id: int, requesting_pe: int) -> None:
        """Sends an object to a PE from this one: when it is here."""
        if obj_id in self.objects:
            self.thisProxy[requesting_pe].receive_remote_object(obj_id, self.objects[obj_id])
        else:
            self.object_requests.setdefault(obj_id, []).append(requesting_pe)

    def request_location(self, obj_id: int, requesting_pe: int) -> None:
        """Tells a PE where an object is: when that is known here."""
        places = self.locations.get(obj_id)
        if places:
            self.thisProxy[requesting_pe].update_location(obj_id, places[0])
        else:
            self.location_requests.setdefault(obj_id, []).append(requesting_pe)

    def request_location_object(self, obj_id: int, requesting_pe: int) -> None:
        """Has an object sent to a PE from where it is: called on its home."""
        places = self.locations.get(obj_id)
        if not places:
            self.home_requests.setdefault(obj_id, []).append(requesting_pe)
        elif requesting_pe not in places:  # otherwise it has come there, or is on its way
            self.thisProxy[places[0]].request_object(obj_id, requesting_pe)
            places.append(requesting_pe)

    # Answers

    def receive_remote_object(self, obj_id: int, obj: Any) -> None:
        """An object has come to this PE."""
        self.objects.setdefault(obj_id, obj)
        for pe in self.object_requests.pop(obj_id, ()):
            self.request_object(obj_id, pe)
        for arrived in self.arrivals.pop(obj_id, ()):
            arrived()

    def update_location(self, obj_id: int, pe: int) -> None:
        """An object is on a PE."""
        if obj_id in self.unwanted:
            self.unwanted.discard(obj_id)
            self.thisProxy[pe].delete_object(obj_id)
            return
        places = self.locations.setdefault(obj_id, [])
        if pe not in places:
            places.append(pe)
        for requesting_pe in self.home_requests.pop(obj_id, ()):
            self.request_location_object(obj_id, requesting_pe)
        for requesting_pe in self.location_requests.pop(obj_id, ()):
            self.request_location(obj_id, requesting_pe)
        for seen in self.sightings.pop(obj_id, ()):
            seen()

    def bulk_send_object(self, obj_id: int, requesting_pes: list[int]) -> None:
        """As :meth:`request_object`, of several PEs."""
        for pe in requesting_pes:
            self.request_object(obj_id, int(pe))

    def bulk_send_location(self, obj_id: int, requesting_pes: list[int]) -> None:
        """As :meth:`request_location`, of several PEs."""
        for pe in requesting_pes:
            self.request_location(obj_id, int(pe))

    # On this PE, not through a proxy

    def tell(self, pe: int, obj_id: int) -> None:
        """Tells a PE that the object is here."""
        if pe == this_pe():
            self.update_location(obj_id, pe)
        else:
            self.thisProxy[pe].update_location(obj_id, this_pe())

    def when_here(self, obj_id: int, arrived: Callable[[], None]) -> None:
        """Fetches an object, and calls back when it is on this PE."""
        if obj_id in self.objects:
            arrived()
            return
        waiting = self.arrivals.setdefault(obj_id, [])
        waiting.append(arrived)
        if len(waiting) > 1:
            return
        if home(obj_id) == this_pe():
            self.request_location_object(obj_id, this_pe())
        else:
            self.thisProxy[home(obj_id)].request_location_object(obj_id, this_pe())

    def when_anywhere(self, obj_id: int, seen: Callable[[], None]) -> None:
        """Calls back when an object is on some PE."""
        if obj_id in self.objects or self.locations.get(obj_id):
            seen()
            return
        self.sightings.setdefault(obj_id, []).append(seen)
        if home(obj_id) != this_pe():
            self.thisProxy[home(obj_id)].request_location(obj_id, this_pe())


def this_pe() -> int:
    return state.pe


def home(obj_id: int) -> int:
    """The PE that knows where an object is."""
    return obj_id % state.pes
