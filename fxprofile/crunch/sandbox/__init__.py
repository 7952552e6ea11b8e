"""
The lock of a child: layers that each hold alone what the others let through.

Each layer is one function that says whether it is in force; none raises when the
kernel does not have it.  :func:`lock` puts them on in their order.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

from fxprofile.crunch.limits import Limits
from fxprofile.crunch.sandbox import landlock, process, rlimits, seccomp

Mode = Literal["strict", "best-effort", "off"]

#: The layers, as logs and metrics name them, in the order in which a child puts them on.
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

    What it may take is limited in every mode; ``off`` leaves out what keeps it apart.

    :param parent: the process whose death is to be this one's.
    :returns: the layers in force, by their names in :data:`LAYERS`.
    """
    apart = mode != "off"
    # Made while descriptors can still be had.
    rules = landlock.ruleset() if apart else None
    force = {
        "priority": process.lower_priority(),
        "uid": apart and process.leave_root(),
        "capabilities": apart and process.drop_capabilities(),
        # After the change of user, which would undo it.
        "parent_death": process.die_with(parent),
        "undumpable": apart and process.forbid_inspection(),
        "rlimits": rlimits.apply(limits),
        "no_new_privs": apart and process.forbid_new_privileges(),
    }
    if rules is not None:
        descriptor, layers = rules
        force.update(dict.fromkeys(layers, landlock.restrict(descriptor)))
    # Last: the others need system calls that this one forbids.
    force["seccomp"] = apart and seccomp.apply(threads=limits.heic)
    return {name for name, holds in force.items() if holds}


def prepare(*, limits: Limits, mode: Mode) -> set[str]:
    """
    Put on, in the helper, what its children then have from their birth.

    :param limits: those that its children will have.
    :returns: the layers in force.
    """
    force = {
        "namespaces": mode != "off" and process.leave_namespaces(),
        "oom_score": process.die_first(),
    }
    if mode != "off":
        process.forbid_inspection()
        # No child has to make it again.
        seccomp.program_here(threads=limits.heic)
    return {name for name, holds in force.items() if holds}


def holds(layers: Collection[str], mode: Mode) -> bool:
    """Whether these layers are enough for this mode."""
    if mode != "strict":
        return True
    return "no_new_privs" in layers and ("seccomp" in layers or "landlock" in layers)


def verified(layers: Collection[str], pid: int) -> set[str]:
    """
    The layers that a child says it has, less those of which the kernel knows better.

    :param pid: the child, stopped before its job.
    """
    believed = set(layers) & set(LAYERS)
    status = process.status(pid)
    if status.get("NoNewPrivs") != "1":
        believed.discard("no_new_privs")
    if status.get("Seccomp") != "2":
        believed.discard("seccomp")
    return believed
