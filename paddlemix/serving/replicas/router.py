"""Ray Serve's choice of a replica: the session's own, or the one with least to do."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from .sessions import ranked


class SessionRouter(RequestRouter):
    """Sends the requests of a session to the replica that :func:`ranked` puts first, while it takes requests."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups of replicas in the order in which they are asked for a place."""
        if pending_request is None:
            return [candidate_replicas]
        # wait a little between two rounds in which all were full
        pending_request.routing_context.should_backoff = True
        session = pending_request.metadata.session_id
        if not session:
            return [candidate_replicas]  # of a group the one with least to do is taken
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        return [[by_name[name]] for name in ranked(session, by_name)]
