/// Span of a caller, as the header `traceparent` of W3C's Trace Context names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    /// Identifier of the trace; not 0.
    pub trace_id: u128,
    /// Identifier of the span; not 0.
    pub span_id: u64,
    /// Flags. The lowest bit says that the trace is sampled.
    pub flags: u8,
}

impl Traceparent {
    /// Reads the header; `None` if it is not well formed. Of a later version the known parts are read.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_first = version == "00";
        let all = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        if !all || version == "ff" || (is_first && parts.next().is_some()) {
            return None;
        }
        Some(Self {
            trace_id: u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?,
            span_id: u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        })
    }
}
