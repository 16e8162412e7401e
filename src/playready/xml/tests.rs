use super::*;

fn parse(text: &str) -> Result<String, XmlError> {
    Document::parse(text.as_bytes()).map(|document| document.root().local_name().to_owned())
}

#[test]
fn reports_the_byte_span_of_every_element() {
    let text = "\u{feff}<?xml version=\"1.0\"?><a><b x='1'>t\u{e9}</b> <c/></a>\n";
    let document = Document::parse(text.as_bytes()).unwrap();
    let raw: Vec<_> = document.elements().map(Element::raw).collect();
    assert_eq!(raw, ["<a><b x='1'>t\u{e9}</b> <c/></a>", "<b x='1'>t\u{e9}</b>", "<c/>"]);
    let children: Vec<_> = document.root().children().map(Element::local_name).collect();
    assert_eq!(children, ["b", "c"]);
}

#[test]
fn resolves_prefixes_and_the_default_namespace_by_scope() {
    let text = "<p:a xmlns:p='urn:1' xmlns='urn:2'><b><p:c xmlns:p='urn:3'/><p:d/></b>\
                <e xmlns=''/></p:a>";
    let document = Document::parse(text.as_bytes()).unwrap();
    let names = [("urn:1", "a"), ("urn:2", "b"), ("urn:3", "c"), ("urn:1", "d"), ("", "e")];
    for (element, (namespace, local)) in document.elements().zip(names) {
        assert!(element.is(namespace, local), "{}", element.local_name());
    }
}

#[test]
fn decodes_references_in_text_and_attributes() {
    let text = "<a x='&lt;&#65;\t&#x42;' >a &amp; b&quot;&apos;&gt;\r\nc</a>";
    let document = Document::parse(text.as_bytes()).unwrap();
    assert_eq!(document.root().attribute("x"), Some("<A B"));
    assert_eq!(document.root().text().unwrap(), "a & b\"'>\nc");
}

#[test]
fn finds_an_attribute_only_by_its_namespace() {
    let text = "<a xmlns:p='urn:1' p:x='1' xml:space='preserve' x='2'/>";
    let document = Document::parse(text.as_bytes()).unwrap();
    assert_eq!(document.root().attribute("x"), Some("2"));
    assert_eq!(document.root().attribute("space"), None);
}

#[test]
fn refuses_markup_that_no_message_needs() {
    for text in [
        "<!DOCTYPE a><a/>",
        "<!DOCTYPE a [<!ENTITY e 'x'>]><a>&e;</a>",
        "<a><!-- --></a>",
        "<a><![CDATA[x]]></a>",
        "<?pi?><a/>",
        "<a><?pi?></a>",
        "<?xml version='1.0'?><?xml version='1.0'?><a/>",
        " <?xml version='1.0'?><a/>",
        "<a/><!-- -->",
    ] {
        assert!(matches!(parse(text), Err(XmlError::ForbiddenMarkup)), "{text}");
    }
}

#[test]
fn refuses_what_is_not_well_formed() {
    for text in [
        "",
        "x",
        "<a>",
        "<a></b>",
        "</a>",
        "<a/><b/>",
        "<a/>x",
        "<a/>&amp;",
        "x<a/>",
        "<a b></a>",
        "<a b=c/>",
        "<a b='1'c='2'/>",
        "<a b='1' b='2'/>",
        "<a b='<'/>",
        "<a b='&e;'/>",
        "<a b='&'/>",
        "<a>&</a>",
        "<a>& amp;</a>",
        "<a>&e;</a>",
        "<a>&#0;</a>",
        "<a>&#x1f;</a>",
        "<a>&#+65;</a>",
        "<a>&#xD800;</a>",
        "<a>]]></a>",
        "<a>\u{1}</a>",
        "<a>\u{ffff}</a>",
        "<1a/>",
        "<a:b:c/>",
        "<:a/>",
        "<p:a/>",
        "<a p:b='1'/>",
        "<a xmlns:p=''/>",
        "<a xmlns:xml='urn:x'/>",
        "<a xmlns='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns='urn:&#65;'/>",
        "<xmlns:a/>",
        "<a xmlns='urn:1' xmlns='urn:1'/>",
        "<a xmlns:p='urn:1' xmlns:q='urn:1' p:x='' q:x=''/>",
        "< a/>",
        "<a",
        "<a/",
        "<?xml version='1.0' encoding='utf-16'?><a/>",
        "<?xml version='2.0'?><a/>",
        "<?xml encoding='utf-8'?><a/>",
        "<?xml version='1.0'<a/>",
    ] {
        assert!(parse(text).is_err(), "accepted {text:?}");
    }
    assert!(matches!(Document::parse(b"<a>\xff</a>"), Err(XmlError::NotUtf8(_))));
}

#[test]
fn holds_every_limit_exactly() {
    let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
    assert!(parse(&nested(32)).is_ok());
    assert!(matches!(parse(&nested(33)), Err(XmlError::Limit("levels"))));

    let wide = |count: usize| format!("<a>{}</a>", "<b/>".repeat(count - 1));
    assert!(parse(&wide(4_096)).is_ok());
    assert!(matches!(parse(&wide(4_097)), Err(XmlError::Limit("elements"))));

    let numbered = |prefix: &str, count: usize| {
        let attributes = (0..count).map(|i| format!(" {prefix}{i}='u'"));
        format!("<a{}/>", attributes.collect::<String>())
    };
    assert!(parse(&numbered("a", 64)).is_ok());
    assert!(matches!(parse(&numbered("a", 65)), Err(XmlError::Limit("attributes"))));
    assert!(parse(&numbered("xmlns:a", 32)).is_ok());
    let too_many = parse(&numbered("xmlns:a", 33));
    assert!(matches!(too_many, Err(XmlError::Limit("namespace declarations"))));

    let sized = |bytes: usize| format!("<a>{}</a>", "x".repeat(bytes - 7));
    assert!(parse(&sized(65_536)).is_ok());
    assert!(matches!(parse(&sized(65_537)), Err(XmlError::TooLarge(65_536))));
}

#[test]
fn reads_typed_values() {
    let text = "<r><n> 42 </n><b>\n AAEC \n</b><g>29A674C9-0d05-6b59-2985-f6578376377c</g>\
                <k>Z0UjAauJ780BI0VniavN7w==</k><twice/><twice/><bad>+1</bad></r>";
    let document = Document::parse(text.as_bytes()).unwrap();
    let root = document.root();
    let field = |name| root.required("", name).unwrap();
    assert_eq!(field("n").decimal(), Ok(42));
    assert_eq!(field("b").base64(), Ok(vec![0, 1, 2]));
    assert_eq!(field("b").base64_array(), Ok([0, 1, 2]));
    assert!(field("b").base64_array::<4>().is_err());
    assert_eq!(field("g").guid().unwrap().to_string(), "29a674c9-0d05-6b59-2985-f6578376377c");
    assert_eq!(field("k").kid().unwrap().to_string(), "01234567-89ab-cdef-0123-456789abcdef");
    assert!(field("bad").decimal().is_err());
    assert!(field("bad").guid().is_err());
    assert_eq!(
        root.optional("", "twice").err().unwrap().to_string(),
        "twice appears more than once"
    );
    assert_eq!(root.required("", "none").err().unwrap().to_string(), "none is missing");
}

#[test]
fn writes_canonical_text() {
    let mut w = Writer::default();
    w.element("a", &[("xmlns", "urn:x"), ("Id", "\"&\u{e9}")], |w| {
        w.leaf("b", "<\"&'>\u{20ac}\u{1f600}\r");
        w.leaf("c", "");
        w.base64("d", &[0, 255]);
    });
    let text = w.finish();
    assert_eq!(
        text,
        "<a xmlns=\"urn:x\" Id=\"&quot;&amp;&#233;\"><b>&lt;\"&amp;'&gt;&#8364;&#128512;&#13;</b>\
         <c></c><d>AP8=</d></a>"
    );
    let document = Document::parse(text.as_bytes()).unwrap();
    assert_eq!(document.root().attribute("Id"), Some("\"&\u{e9}"));
    let b = document.root().children().next().unwrap();
    assert_eq!(b.text().unwrap(), "<\"&'>\u{20ac}\u{1f600}\r");
}
