"""The sessions of providers, kept in `metadata["providers"]` of a session so that they can be continued."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from asm.models import Session
from asm.validation import is_text


class ProviderSession(NamedTuple):
    """The provider's id of its session, and the last run that went on in it."""

    session_id: str
    run_id: str


def find(session: Session, provider: str) -> ProviderSession | None:
    """The session of a provider; None if there is none, or an application keeps something else there."""
    providers = session.metadata.get("providers")
    known = providers.get(provider) if isinstance(providers, dict) else None
    ids = [known.get(name) for name in ProviderSession._fields] if isinstance(known, dict) else [None]
    return ProviderSession(*ids) if all(map(is_text, ids)) else None


def keep(provider: str, own: ProviderSession, session: Session) -> Session:
    """The session that keeps this one. What an application keeps under "providers" is not replaced."""
    providers = session.metadata.get("providers", {})
    if not isinstance(providers, dict):
        return session
    kept = {**providers, provider: own._asdict()}
    return replace(session, metadata={**session.metadata, "providers": kept})
