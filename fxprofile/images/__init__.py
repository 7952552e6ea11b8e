"""The images role: avatars over HTTP."""
