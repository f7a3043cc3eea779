"""Tool calls and reasoning in answers: what each family of models writes, as the fields of a response.

`formats` is a table with a row for each family; a row names the file here that reads its calls.
"""
