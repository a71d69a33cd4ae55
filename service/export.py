"""A version as a PEFT adapter in one zip archive, with an account of what its truncation costs.

    adapter_config.json, adapter_model.safetensors     what `PeftModel.from_pretrained` reads
    infold.json                                        version, digests, documents; residuals; probes of version and adapter

Covered: making the archive. Not covered: HTTP (`routes/versions.py`), unpacking (`commands/export.py`).
"""

import io
import json
import zipfile
from dataclasses import asdict
from typing import Any

from adapters.delta import DeltaSum
from adapters.peft_adapter import peft_files, probe, truncate
from service.runtime import Runtime


def export(runtime: Runtime, namespace: str, version: str, rank: int) -> bytes:
    """The archive of a version. The learner is kept from learning while probes are run, and may learn while layers are truncated.

    Raises:
        UnknownNamespace, UnknownVersion, NotReady
        LearnsElsewhere: there is no learner in this process.
    """
    record = runtime.ledger.resolve(namespace, version)
    learner, base, workspace = runtime.learner, runtime.base, runtime.learner.workspace
    total, memories = runtime.rebuild(record.digest)
    with runtime.turns.learning():
        metric = learner.metric.after(memories)
        own = probe(workspace, learner.guard, memories, total.weights())
    delta, residuals = truncate(total, workspace, metric, rank)
    truncated = DeltaSum(workspace.base_weights)
    truncated.add(delta)
    with runtime.turns.learning():
        left = probe(workspace, learner.guard, memories, truncated.weights())
    files = peft_files(workspace, delta)
    account: dict[str, Any] = {
        "version": record.name,
        "namespace": namespace,
        "digest": record.digest,
        "base": base.digest,
        "rank": json.loads(files["adapter_config.json"])["r"],
        "documents": runtime.store.learned(runtime.store.lineage(record.digest, base.digest)),
        "memories": len(memories),
        "residuals": {layer: asdict(residual) for layer, residual in residuals.items()},
        "probes": {"version": asdict(own), "adapter": asdict(left)},
    }
    return _zipped({**files, "infold.json": json.dumps(account, indent=1).encode()})


def _zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return archive.getvalue()
