"""The desk that everything else stands on. It knows no model and no data.

Reading order: errors, layout (names of folders and files), files (hashes, locks, replacing), disk
(sizes, removed weights), code (which code made a result), record (how a result was made, and
whether it is still true), tables (CSV), figures, bars (of progress), knobs (settings that become
flags), options (shared flags), places (where relative paths start), groups (of a help), command
(running a script).
"""
