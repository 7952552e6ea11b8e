"""
What it costs to be ready for the first call of S3 and of SQS: our client, against botocore's.

Each run is a process of its own, the two kinds in turn, and the medians are compared; so the
ratios hold whatever else the machine does. The last line says how long the reactor stood still
while our client got ready in its thread, against the whole time that this took.

    python benchmarks/aws_start.py [ROUNDS]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

# What every process of the service has anyway.
BASE = """
import json, resource, time
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from fxprofile.deferreds.threads import Threads
began = time.process_time()
"""

OURS = """
from fxprofile.drivers.aws.client.client import AwsClient, AwsService
imported = time.process_time()
threads = Threads(reactor, "files", 2)
threads.startService()
client = AwsClient(reactor, threads, "us-east-1")
gaps, last, started = [], [time.perf_counter()], time.perf_counter()

def tick():
    now = time.perf_counter()
    gaps.append(now - last[0])
    last[0] = now

async def get_ready():
    beat = LoopingCall(tick)
    beat.start(0.002)
    await client.credentials.get()
    for name, bucket in (("s3", "bucket"), ("sqs", None)):
        await AwsService(client, name).endpoint(bucket)
    tick()
    beat.stop()
    print(json.dumps({
        "import": imported - began,
        "ready": time.process_time() - began,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "gap": max(gaps),
        "elapsed": time.perf_counter() - started,
    }))
    await threads.stopService()
    reactor.stop()

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(get_ready()))
reactor.run()
"""

THEIRS = """
import botocore.session
imported = time.process_time()
session = botocore.session.Session()
session.get_credentials().get_frozen_credentials()
for name in ("s3", "sqs"):
    session.create_client(name, region_name="us-east-1")
print(json.dumps({
    "import": imported - began,
    "ready": time.process_time() - began,
    "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
"""

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def run(program: str) -> dict[str, float]:
    """One process."""
    done = subprocess.run(
        [sys.executable, "-c", BASE + program], env=ENVIRONMENT, capture_output=True, check=True
    )
    return json.loads(done.stdout)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    run(OURS), run(THEIRS)
    results: dict[str, list[dict[str, float]]] = {"ours": [], "botocore": []}
    for _ in range(rounds):
        results["ours"].append(run(OURS))
        results["botocore"].append(run(THEIRS))
        time.sleep(0.05)
    median = {
        kind: {name: statistics.median(r[name] for r in runs) for name in runs[0]}
        for kind, runs in results.items()
    }
    ours, theirs = median["ours"], median["botocore"]
    for name, label, unit, scale in (
        ("import", "imports before the process can listen, CPU", "ms", 1e3),
        ("ready", "ready for S3 and SQS, CPU", "ms", 1e3),
        ("rss", "memory", "MiB", 1 / 1024),
    ):
        print(
            f"{label}: ours {ours[name] * scale:.0f} {unit}, botocore {theirs[name] * scale:.0f}"
            f" {unit}, ratio {ours[name] / theirs[name]:.2f}"
        )
    print(
        f"longest standstill of the reactor: {ours['gap'] * 1e3:.0f} ms of"
        f" {ours['elapsed'] * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
