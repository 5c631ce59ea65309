"""A list answered row by row: rows unchanged and in order, `allowed` and `reason` added.

Lists come in pieces and go out in slices; what is held meanwhile is one piece and one row. The API,
the console's page and the command line are three doors to the same reading and answering.
"""
