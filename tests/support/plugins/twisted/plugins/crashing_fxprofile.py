"""Registers ``twistd crashing-fxprofile``, which only tests have on their path."""

from twisted.application.service import ServiceMaker

crashing_fxprofile = ServiceMaker(
    "crashing fxprofile",
    "tests.support.crashing",
    "fxprofile, killed around one call of a driver.",
    "crashing-fxprofile",
)
