"""
Level 4. The API of the web role: one module per group of endpoints, and the development page.

The only folder that turns an error into a status.  Rules about uploads and profiles live in
``uploads/`` and ``profiles/``.  Libraries: klein, pydantic, werkzeug.
"""
