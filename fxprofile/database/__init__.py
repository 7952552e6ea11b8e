"""The driver of :class:`fxprofile.interfaces.IProfileStore`, and the tables of the queues."""
