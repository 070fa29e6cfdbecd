"""Well-formed XML 1.0 with namespaces, by expat under defusedxml: no entity is expanded, nothing is fetched."""

from __future__ import annotations

from typing import Any

from labelers.malformed import MAX_DEPTH, Malformed, Undecided, check_encodable, check_not_blank


def kind_of_xml(text: str) -> str:
    """`document`, for text that is one well-formed XML document.

    Raises:
        Malformed: it is none: an unbound prefix, an undeclared entity, two roots and text beside the root count.
        Undecided: it declares entities, or refers to one that an external DTD may declare; or nests over 200 deep.
    """
    from xml.sax import SAXParseException
    from xml.sax.handler import feature_namespaces

    from defusedxml import DefusedXmlException
    from defusedxml.expatreader import create_parser

    check_encodable(text)
    check_not_blank(text)
    counter = _depth_counter()
    parser: Any = create_parser(forbid_dtd=False, forbid_entities=True, forbid_external=True)
    parser.setFeature(feature_namespaces, True)
    parser.setContentHandler(counter)
    try:
        parser.feed(text)
        parser.close()
    except SAXParseException as error:
        raise Malformed(f"line {error.getLineNumber()}: {error.getMessage()}") from None
    except DefusedXmlException as error:
        raise Undecided(f"entities and external files are not followed: {type(error).__name__}") from None
    if counter.deepest > MAX_DEPTH:
        raise Undecided(f"nested {counter.deepest} deep, more than {MAX_DEPTH}")
    return "document"


def _depth_counter() -> Any:
    """A SAX handler that knows the greatest depth, and stops at an entity that is not known here."""
    from xml.sax.handler import ContentHandler

    class Counter(ContentHandler):
        """Counts open elements."""

        depth = deepest = 0

        def startElementNS(self, name: Any, qname: Any, attrs: Any) -> None:
            self.depth += 1
            self.deepest = max(self.deepest, self.depth)

        def endElementNS(self, name: Any, qname: Any) -> None:
            self.depth -= 1

        def skippedEntity(self, name: str) -> None:
            raise Undecided(f"the entity {name[:40]!r} may be declared in a file that is not fetched")

    return Counter()
