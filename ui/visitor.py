"""Who looks at the page, and what they may change. `ui.sign_in` finds out who it is; nothing is drawn here."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from rag.errors import Rank37Error
from rag.settings import load_settings
from rag.types import CollectionCard

VISITOR = "visitor"
"""Where the session keeps them. It is found out anew whenever a page is drawn."""


class NotSignedIn(Rank37Error):
    """A page was asked for by a session in which nobody is signed in."""


class NotAllowed(Rank37Error):
    """The person may see it, and not change it."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks at the page."""

    person: str | None = None
    """None: no one signs in here."""
    is_admin: bool = True
    """Whether they may change what holds for all."""

    @property
    def owner(self) -> str:
        """As whose their chats are kept."""
        return self.person or ""

    def may_manage(self, card: CollectionCard) -> bool:
        """Whether they may change a collection, delete of it, and see what all its people asked.

        One that is no one's is the administrators'.
        """
        return self.person is None or (card.owner == self.person if card.owner else self.is_admin)

    def check_admin(self, what: str) -> None:
        """Raises NotAllowed unless they may change what holds for all."""
        if not self.is_admin:
            raise NotAllowed(f"{what} holds for all: only an administrator can change it; ask one")

    def check_manages(self, card: CollectionCard) -> None:
        """Raises NotAllowed unless they may change the collection."""
        if not self.may_manage(card):
            whose = f"{card.owner}'s" if card.owner else "no one's"
            who = "its owner" if card.owner else "an administrator"
            raise NotAllowed(f"the collection {card.title!r} is {whose}: only {who} can do this")


def visitor() -> Visitor:
    """Who looks at the page that is being drawn. Raises NotSignedIn: what asks for it is never drawn for nobody."""
    known: Visitor | None = st.session_state.get(VISITOR)
    if known is not None:
        return known
    if load_settings().auth == "none":
        return Visitor()
    raise NotSignedIn("nobody is signed in here: open the page again, and sign in")
