"""From source repositories to a trained, evaluated, released code LLM, with every token traceable to its file.

The folders of the repository are the packages: each is linked here, so that all of them share this one name.
"""
