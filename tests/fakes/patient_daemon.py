"""`python -m tests.fakes.patient_daemon`: the daemon, but it waits long for its peers, and always prefers them.

Machines that run tests are busy, and compute a tiny model's prompts more quickly than blocks come from anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from semanticd.adapters.peers.http_peers import HttpPeers
from semanticd.application.engine import admission, peer_lookup
from semanticd.domain.block import Block
from semanticd.entrypoints.cli import main

PATIENCE_S = 60.0


class PatientPeers(HttpPeers):
    """Peers that are always quicker than computing."""

    def expected_s(self, blocks: Iterable[Block]) -> float:
        """Expect nothing bad."""
        return 0.0


if __name__ == "__main__":
    from semanticd.entrypoints import bootstrap

    HttpPeers.__init__.__kwdefaults__ |= {"look_up_s": PATIENCE_S, "read_s": PATIENCE_S}
    bootstrap.HttpPeers = PatientPeers  # type: ignore[misc]
    peer_lookup.ANSWER_DEADLINE_S = 2 * PATIENCE_S
    admission.READ_DEADLINE_S = 2 * PATIENCE_S
    sys.argv = ["semanticd", "serve"]
    main()
