"""Model families: what the exporter has to know of each, behind one table and one small interface.

A family is a folder here, with its modules in torch (`FamilyModel`), the names of its weights (`WeightNames`) and its
row (`ExportFamily`), which stands in `table.FAMILIES`; its configuration, tokenizer and prompts are in the row of
`xlm_runtime.families.FAMILIES`. Nothing outside its folder names its classes or weights.
"""
