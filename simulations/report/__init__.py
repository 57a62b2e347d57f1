"""What a result looks like on a page: elements that escape themselves, a line chart, a report.

markup   elements of HTML and SVG; every text and attribute is escaped by the standard library
chart    lines with intervals, as SVG
page     `report.html` of one run
table    rows of a comparison, for a terminal and as CSV
"""
