//! The landing page: what a person sees who opens the relay's address in a browser. One HTML text
//! without scripts or foreign files but the operator's own icon and banner, made from the NIP-11
//! document alone, so that the two cannot disagree.

use crate::info::{Fee, RelayDocument};

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#f6f4f1;--card:#fff;--ink:#1d1b20;--soft:#6a6570;--line:#e4dfe6;\
--accent:#7a3ff2;--accent-soft:#efe7ff}\
@media(prefers-color-scheme:dark){:root{--bg:#131217;--card:#1c1b22;--ink:#edeaf2;--soft:#9d97a8;\
--line:#2e2b37;--accent:#b794ff;--accent-soft:#2a2140}}\
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);\
font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\
main{max-width:46rem;margin:0 auto;padding:3rem 1.25rem 4rem}\
.banner{width:100%;max-height:14rem;object-fit:cover;border-radius:1rem;margin-bottom:1.5rem}\
header{display:flex;gap:1.1rem;align-items:center;margin-bottom:1.25rem}\
.icon{width:4rem;height:4rem;border-radius:1rem;object-fit:cover;flex:none}\
h1{font-size:2rem;line-height:1.15;margin:0;letter-spacing:-.02em;overflow-wrap:anywhere}\
h2{font-size:.8rem;margin:0 0 .8rem;color:var(--soft);text-transform:uppercase;\
letter-spacing:.08em}\
.lead{font-size:1.1rem;white-space:pre-line;overflow-wrap:anywhere;margin:0 0 1.5rem}\
section{background:var(--card);border:1px solid var(--line);border-radius:1rem;\
padding:1.25rem 1.4rem;margin-top:1rem}\
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}\
.address{display:block;padding:.75rem 1rem;border-radius:.7rem;background:var(--accent-soft);\
color:var(--accent);font-weight:600;user-select:all}\
ul.nips{list-style:none;display:flex;flex-wrap:wrap;gap:.45rem;margin:0;padding:0}\
ul.nips a{display:block;min-width:2.6rem;text-align:center;padding:.2rem .6rem;border-radius:99px;\
background:var(--accent-soft);color:var(--accent);text-decoration:none;font-weight:600;\
font-size:.9rem}\
dl{display:grid;grid-template-columns:minmax(9rem,auto) 1fr;gap:.45rem 1.2rem;margin:0}\
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}a{color:var(--accent)}\
footer{margin-top:1.5rem;color:var(--soft);font-size:.9rem}";

/// The page. `public_url` is the address that clients are told to use.
pub fn render(document: &RelayDocument, public_url: Option<&str>) -> String {
    let name = document.name.as_deref().unwrap_or("Nostr relay");
    let mut page = String::with_capacity(8 * 1024);
    page += "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
        <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>";
    escape(name, &mut page);
    page += "</title>";
    write_favicon(document.icon.as_deref(), &mut page);
    page += "<style>";
    page += STYLE;
    page += "</style></head><body><main>";
    write_image("banner", document.banner.as_deref(), &mut page);
    page += "<header>";
    write_image("icon", document.icon.as_deref(), &mut page);
    page += "<h1>";
    escape(name, &mut page);
    page += "</h1></header>";
    if let Some(description) = &document.description {
        page += "<p class=\"lead\">";
        escape(description, &mut page);
        page += "</p>";
    }
    write_address(public_url, &mut page);
    write_nips(&document.supported_nips, &mut page);
    write_rows("Limits", &limit_rows(document), &mut page);
    write_rows("Prices", &fee_rows(document), &mut page);
    write_rows("Operator", &operator_rows(document), &mut page);
    write_footer(document, &mut page);
    page += "</main></body></html>";
    page
}

/// Escapes text for element content and for quoted attributes.
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
}

/// Whether a URL may become a link: nothing that a browser would execute.
fn is_link(url: &str) -> bool {
    ["https://", "http://", "mailto:", "nostr:"].iter().any(|scheme| {
        url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })
}

fn write_image(class: &str, url: Option<&str>, page: &mut String) {
    let Some(url) = url.filter(|url| is_link(url)) else { return };
    *page += "<img class=\"";
    *page += class;
    *page += "\" alt=\"\" src=\"";
    escape(url, page);
    *page += "\">";
}

/// Without an icon of its own the page names an empty one, or browsers would ask for a file.
fn write_favicon(icon: Option<&str>, page: &mut String) {
    *page += "<link rel=\"icon\" href=\"";
    escape(icon.filter(|url| is_link(url)).unwrap_or("data:,"), page);
    *page += "\">";
}

fn write_address(public_url: Option<&str>, page: &mut String) {
    *page += "<section><h2>Connect</h2>";
    match public_url {
        Some(url) => {
            *page += "<p>Add this address to your Nostr client:</p><code class=\"address\">";
            escape(url, page);
            *page += "</code>";
        }
        None => {
            *page += "<p>This address is a Nostr relay. Add it to your Nostr client with \
                <code>wss://</code> in place of <code>https://</code>, or <code>ws://</code> in \
                place of <code>http://</code>.</p>";
        }
    }
    *page += "</section>";
}

fn write_nips(nips: &[u16], page: &mut String) {
    if nips.is_empty() {
        return;
    }
    *page += "<section><h2>Supported NIPs</h2><ul class=\"nips\">";
    for nip in nips {
        *page += &format!("<li><a href=\"https://nips.nostr.com/{nip}\">{nip:02}</a></li>");
    }
    *page += "</ul></section>";
}

type Row = (&'static str, String);

fn write_rows(title: &str, rows: &[Row], page: &mut String) {
    if rows.is_empty() {
        return;
    }
    *page += "<section><h2>";
    *page += title;
    *page += "</h2><dl>";
    for (name, value) in rows {
        *page += "<dt>";
        *page += name;
        *page += "</dt><dd>";
        if is_link(value) {
            *page += "<a rel=\"noreferrer\" href=\"";
            escape(value, page);
            *page += "\">";
            escape(value, page);
            *page += "</a>";
        } else {
            escape(value, page);
        }
        *page += "</dd>";
    }
    *page += "</dl></section>";
}

fn limit_rows(document: &RelayDocument) -> Vec<Row> {
    let limits = &document.limitation;
    let numbers = [
        ("Message", limits.max_message_length, " bytes"),
        ("Content", limits.max_content_length, " characters"),
        ("Tags", limits.max_event_tags, " per event"),
        ("Subscriptions", limits.max_subscriptions, " per connection"),
        ("Subscription id", limits.max_subid_length, " characters"),
        ("Events per query", limits.max_limit, " at most"),
        ("Without a limit", limits.default_limit, " events"),
        ("Proof of work", limits.min_pow_difficulty.filter(|bits| *bits > 0), " bits"),
    ];
    let times = [
        ("Oldest event", limits.created_at_lower_limit, " ago"),
        ("Newest event", limits.created_at_upper_limit, " ahead"),
    ];
    let flags = [
        ("Authentication", limits.auth_required, "required (NIP-42)"),
        ("Payment", limits.payment_required, "required"),
        ("Writing", limits.restricted_writes, "restricted"),
    ];
    let numbers = numbers
        .into_iter()
        .filter_map(|(name, value, unit)| Some((name, format!("{}{unit}", grouped(value?)))));
    let flags = flags
        .into_iter()
        .filter(|(_, flag, _)| *flag == Some(true))
        .map(|(name, _, text)| (name, text.to_owned()));
    let times = times
        .into_iter()
        .filter_map(|(name, value, unit)| Some((name, format!("{}{unit}", duration(value?)))));
    numbers.chain(times).chain(flags).collect()
}

/// Digits in groups of three, for people.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds in the largest unit that divides them.
fn duration(seconds: u64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let divides = |(length, _): &(u64, &str)| seconds >= *length && seconds.is_multiple_of(*length);
    let (length, name) = units.into_iter().find(divides).unwrap_or((1, "second"));
    let count = seconds / length;
    format!("{} {name}{}", grouped(count), if count == 1 { "" } else { "s" })
}

fn fee_rows(document: &RelayDocument) -> Vec<Row> {
    let fees = &document.fees;
    [
        ("Admission", &fees.admission),
        ("Subscription", &fees.subscription),
        ("Publication", &fees.publication),
    ]
    .into_iter()
    .flat_map(|(name, fees)| fees.iter().map(move |fee| (name, fee_text(fee))))
    .collect()
}

fn fee_text(fee: &Fee) -> String {
    let mut text = format!("{} {}", grouped(fee.amount), fee.unit);
    if let Some(period_s) = fee.period {
        text += &format!(" for {}", duration(period_s));
    }
    if !fee.kinds.is_empty() {
        let kinds: Vec<String> = fee.kinds.iter().map(u16::to_string).collect();
        text += &format!(" (kinds {})", kinds.join(", "));
    }
    text
}

fn operator_rows(document: &RelayDocument) -> Vec<Row> {
    [
        ("Contact", &document.contact),
        ("Administrator", &document.pubkey),
        ("Relay key", &document.own_pubkey),
        ("Terms", &document.terms_of_service),
        ("Payments", &document.payments_url),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value.clone()?)))
    .collect()
}

fn write_footer(document: &RelayDocument, page: &mut String) {
    *page += "<footer>";
    if let Some(software) = &document.software {
        *page += "Runs ";
        if is_link(software) {
            *page += "<a rel=\"noreferrer\" href=\"";
            escape(software, page);
            *page += "\">";
            escape(software, page);
            *page += "</a>";
        } else {
            escape(software, page);
        }
        if let Some(version) = &document.version {
            *page += ", version ";
            escape(version, page);
        }
        *page += ". ";
    } else if let Some(version) = &document.version {
        *page += "Runs Turnpike, version ";
        escape(version, page);
        *page += ". ";
    }
    *page += "Machines read this page with <code>Accept: application/nostr+json</code>.</footer>";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{Fees, Limitation};

    #[test]
    fn everything_foreign_is_escaped() {
        let hostile = "<script>alert(\"1\")</script>&'".to_owned();
        let document = RelayDocument {
            name: Some(hostile.clone()),
            description: Some(hostile.clone()),
            banner: Some(format!("https://x/\"{hostile}")),
            icon: Some("javascript:alert(1)".into()),
            contact: Some("javascript:alert(2)".into()),
            pubkey: Some(hostile.clone()),
            software: Some(hostile.clone()),
            version: Some(hostile.clone()),
            terms_of_service: Some(format!("https://x/\" onclick=\"{hostile}")),
            fees: Fees {
                admission: vec![Fee { unit: hostile.clone(), ..Fee::default() }],
                ..Fees::default()
            },
            ..RelayDocument::default()
        };
        let page = render(&document, Some(&hostile));
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains("\" onclick"), "{page}");
        assert!(!page.contains("href=\"javascript"), "{page}");
        assert!(!page.contains("src=\"javascript"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 11);
    }

    #[test]
    fn durations_are_in_their_largest_unit() {
        for (seconds, text) in [
            (94_608_000, "1,095 days"),
            (86_400, "1 day"),
            (7_200, "2 hours"),
            (900, "15 minutes"),
            (61, "61 seconds"),
            (0, "0 seconds"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn the_page_says_what_the_document_says() {
        let document = RelayDocument {
            name: Some("Tor".into()),
            supported_nips: vec![1, 42],
            limitation: Limitation {
                max_message_length: Some(524_288),
                payment_required: Some(true),
                auth_required: Some(false),
                ..Limitation::default()
            },
            fees: Fees {
                subscription: vec![Fee {
                    amount: 5_000,
                    unit: "sats".into(),
                    period: Some(2_592_000),
                    kinds: vec![],
                }],
                ..Fees::default()
            },
            ..RelayDocument::default()
        };
        let page = render(&document, Some("wss://relay.example"));
        for expected in [
            "<title>Tor</title>",
            "wss://relay.example",
            ">42</a>",
            "524,288 bytes",
            "5,000 sats for 30 days",
            "<dt>Payment</dt>",
            "prefers-color-scheme:dark",
        ] {
            assert!(page.contains(expected), "{expected}");
        }
        assert!(!page.contains("Authentication"));
        assert!(!page.contains("<script"), "no scripts");
        let bare = render(&RelayDocument::default(), None);
        assert!(bare.contains("<title>Nostr relay</title>") && bare.contains("wss://"));
    }
}
