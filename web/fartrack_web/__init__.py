"""The built page of ``fartrack web``, in the folder ``page`` beside this file."""
