"""Makes ``twistd fxprofile`` known.  Strings only: ``twistd --help`` imports nothing of ours."""

from twisted.application.service import ServiceMaker

fxprofile = ServiceMaker(
    "fxprofile",
    "fxprofile.tap",
    "The Firefox Accounts profile service: web, worker and images roles.",
    "fxprofile",
)
