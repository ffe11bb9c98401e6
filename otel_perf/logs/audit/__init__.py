"""An audit trail that proves itself: durable before the call returns, chained, signed, verified with a public key.

``audit.db``       the records (SQLite, WAL, ``synchronous=FULL``), one hash chain over all processes
``audit.head``     the newest checkpoint, overwritten at every commit: a cut tail or an older copy is told from it
``audit.checkpoints``  a checkpoint every minute, only ever appended to; best kept elsewhere
``audit.key``      the private key, mode 0600; ``audit.pub`` the public one

A record's hash covers the record before it, with its signature (:mod:`~otel_perf.logs.audit.chain`). The last record of
every commit is signed, so that a record that was acknowledged is under a signature. Without the key nobody can
change, insert, remove or reorder records without being found.

What it cannot show: whoever can read the private key can write another trail. Whoever can write all of the home
folder, but has no key, can put the folder back as it was at an earlier commit; that is found by a checkpoint that lies
out of their reach (a log event that was exported, ``audit.checkpoints`` on another volume or made append-only, a head
that was written down), up to that checkpoint. What came after the last such checkpoint can be cut off unseen.
Without the extra ``audit`` the chain is not signed, and anybody who can write the file can compute it again.
"""
