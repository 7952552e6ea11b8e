"""
The sandbox of a child: independent layers, each of them for the case that others fail.

Each layer is a function that returns whether it is in force; none raises if the kernel
lacks it.  :func:`lock` applies them in order.  No library does this without a helper program
of its own (bubblewrap, nsjail), which would have to start a new interpreter for each image.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.sandbox import landlock, process, seccomp

Mode = Literal["strict", "best-effort", "off"]

#: The layers, as logs and metrics name them, in the order in which they are applied.
LAYERS: Final = (
    "namespaces",
    "oom_score",
    "priority",
    "uid",
    "capabilities",
    "parent_death",
    "undumpable",
    "rlimits",
    "no_new_privs",
    "landlock",
    "landlock_network",
    "landlock_scope",
    "seccomp",
)


def lock(*, parent: int, limits: Limits, mode: Mode) -> set[str]:
    """
    Lock this process, for good.

    Its resources are limited in every mode; ``off`` leaves out the layers that isolate it.

    :param parent: the process whose end also ends this one.
    :returns: the layers in force, by their names in :data:`LAYERS`.
    """
    isolated = mode != "off"
    # Made while this process may still open descriptors.
    rules = landlock.ruleset() if isolated else None
    in_force = {
        "priority": process.lower_priority(),
        "uid": isolated and process.leave_root(),
        "capabilities": isolated and process.drop_capabilities(),
        # After the change of user, which would undo it.
        "parent_death": process.die_with(parent),
        "undumpable": isolated and process.forbid_inspection(),
        "rlimits": process.limit_resources(limits),
        "no_new_privs": isolated and process.forbid_new_privileges(),
    }
    if rules is not None:
        descriptor, layers = rules
        in_force |= dict.fromkeys(layers, landlock.restrict(descriptor))
    # Last: the others need system calls that this one forbids.
    in_force["seccomp"] = isolated and seccomp.restrict(threads=limits.heic)
    return {name for name, holds in in_force.items() if holds}


def prepare(*, limits: Limits, mode: Mode) -> set[str]:
    """
    Apply, in the helper, the layers that its children inherit.

    :param limits: those of its children.
    :returns: the layers in force.
    """
    in_force = {
        "namespaces": mode != "off" and process.leave_namespaces(),
        "oom_score": process.die_first(),
    }
    if mode != "off":
        process.forbid_inspection()
        # Cached, so that no child has to make them.
        for threads in (False, limits.heic):
            seccomp.program_here(threads=threads)
    return {name for name, holds in in_force.items() if holds}


def is_enough(layers: Collection[str], mode: Mode) -> bool:
    """Return whether these layers are enough for this mode."""
    if mode != "strict":
        return True
    return "no_new_privs" in layers and ("seccomp" in layers or "landlock" in layers)


def verified(layers: Collection[str], descriptor: int) -> set[str]:
    """
    Return the layers that a child claims, except if the kernel denies them.

    :param descriptor: of the status file of the child, which waits before its job.
    """
    confirmed = set(layers) & set(LAYERS)
    status = process.status(descriptor)
    if status.get("NoNewPrivs") != "1":
        confirmed.discard("no_new_privs")
    if status.get("Seccomp") != "2":
        confirmed.discard("seccomp")
    return confirmed
