"""Registers ``twistd tested-fxprofile``, which only tests have on their path."""

from twisted.application.service import ServiceMaker

tested_fxprofile = ServiceMaker(
    "tested fxprofile",
    "tests.support.crashing",
    "fxprofile with one crunch helper, which may be killed around one call of a driver.",
    "tested-fxprofile",
)
