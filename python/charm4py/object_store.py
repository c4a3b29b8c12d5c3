"""A store of objects that all PEs share: a group whose elements keep objects and locations of objects.

An object has a number. Its *home PE*, ``number % numPes``, knows on which PEs it is. A request for an object that does not exist yet is served when
the object arrives. Objects are not copied on the PE where they were created.
"""

from __future__ import annotations

from typing import Any, Callable

from . import state
from .chare import Chare

Waiters = dict[int, list[Any]]


class ObjectStore(Chare):
    """A store of objects. Create a ``Group`` of it. Calls may arrive in any order."""

    def __init__(self) -> None:
        self.objects: dict[int, Any] = {}
        #: The PEs that have an object, first the one that created it. The list on the home PE is complete.
        self.locations: dict[int, list[int]] = {}
        #: Pending requests of PEs: for an object of this PE, for an object by way of its home PE, and for a location.
        self.object_requests: Waiters = {}
        self.home_requests: Waiters = {}
        self.location_requests: Waiters = {}
        #: Callbacks for when an object is on this PE, or on any PE.
        self.arrivals: Waiters = {}
        self.sightings: Waiters = {}
        #: Objects that were deleted before they arrived.
        self.unwanted: set[int] = set()

    # Creation and deletion

    def create_object(self, obj_id: int, obj: Any) -> None:
        """Keeps an object on this PE, and tells its home PE."""
        self.receive_remote_object(obj_id, obj)
        self.tell(home(obj_id), obj_id)

    def insert_object_small(self, obj_id: int, obj: Any) -> None:
        """Keeps an object on its home PE, which must be this one."""
        self.receive_remote_object(obj_id, obj)
        self.update_location(obj_id, this_pe())

    def delete_object(self, obj_id: int) -> None:
        """Drops an object if it is on this PE."""
        self.objects.pop(obj_id, None)

    def delete_remote_objects(self, obj_id: int) -> None:
        """Drops an object on all PEs. To be called on its home PE."""
        places = self.locations.pop(obj_id, None)
        if places is None:
            self.unwanted.add(obj_id)
        for pe in places or ():
            self.thisProxy[pe].delete_object(obj_id)

    # Lookup

    def lookup_object(self, obj_id: int) -> Any:
        """The object if it is on this PE, otherwise ``None``."""
        return self.objects.get(obj_id)

    def lookup_location(self, obj_id: int) -> int:
        """A PE that has the object, or -1 if this PE does not know one. Then it asks the home PE."""
        places = self.locations.get(obj_id)
        if places:
            return places[0]
        self.thisProxy[home(obj_id)].request_location(obj_id, this_pe())
        return -1

    # Requests

    def request_object(self, obj_id: int, requesting_pe: int) -> None:
        """Sends an object from this PE to another one, as soon as it is here."""
        if obj_id in self.objects:
            self.thisProxy[requesting_pe].receive_remote_object(obj_id, self.objects[obj_id])
        else:
            self.object_requests.setdefault(obj_id, []).append(requesting_pe)

    def request_location(self, obj_id: int, requesting_pe: int) -> None:
        """Tells a PE the location of an object, as soon as this PE knows it."""
        places = self.locations.get(obj_id)
        if places:
            self.thisProxy[requesting_pe].update_location(obj_id, places[0])
        else:
            self.location_requests.setdefault(obj_id, []).append(requesting_pe)

    def request_location_object(self, obj_id: int, requesting_pe: int) -> None:
        """Lets a PE that has an object send it to another one. To be called on the object's home PE."""
        places = self.locations.get(obj_id)
        if not places:
            self.home_requests.setdefault(obj_id, []).append(requesting_pe)
        elif requesting_pe not in places:  # otherwise the object is there, or in transit
            self.thisProxy[places[0]].request_object(obj_id, requesting_pe)
            places.append(requesting_pe)

    # Arrivals

    def receive_remote_object(self, obj_id: int, obj: Any) -> None:
        """An object has arrived on this PE."""
        self.objects.setdefault(obj_id, obj)
        for pe in self.object_requests.pop(obj_id, ()):
            self.request_object(obj_id, pe)
        for arrived in self.arrivals.pop(obj_id, ()):
            arrived()

    def update_location(self, obj_id: int, pe: int) -> None:
        """An object is now on a PE."""
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
        """Like :meth:`request_object`, for several PEs."""
        for pe in requesting_pes:
            self.request_object(obj_id, int(pe))

    def bulk_send_location(self, obj_id: int, requesting_pes: list[int]) -> None:
        """Like :meth:`request_location`, for several PEs."""
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
        """Fetches an object, and calls ``arrived`` when it is on this PE."""
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
        """Calls ``seen`` when an object is on any PE."""
        if obj_id in self.objects or self.locations.get(obj_id):
            seen()
            return
        self.sightings.setdefault(obj_id, []).append(seen)
        if home(obj_id) != this_pe():
            self.thisProxy[home(obj_id)].request_location(obj_id, this_pe())


def this_pe() -> int:
    return state.pe


def home(obj_id: int) -> int:
    """The home PE of an object, which knows where the object is."""
    return obj_id % state.pes
