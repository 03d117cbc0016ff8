//! `dynamomini certs`: an authority of one's own, requests for an outside one, renewal, and a look into files.

use std::path::Path;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use crate::certs::Authority;
use crate::certs::CertsError;
use crate::certs::Subject;
use crate::certs::authority;
use crate::certs::describe::Described;
use crate::certs::describe::Names;
use crate::certs::describe::describe;
use crate::certs::store;
use crate::certs::subject::parse_grant;
use crate::cli::Context;
use crate::net::grants::Grant;
use crate::types::ClusterName;
use crate::types::NodeName;

/// Arguments of `certs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: an authority, a node, a client that may read and write one namespace
  dynamomini certs init --name shop
  dynamomini certs node n1 --host db1.example.org --host 10.0.0.5
  dynamomini certs client web --grant orders:get+put")]
pub(crate) struct Args {
    /// The folder of the authority, and where files are written.
    #[arg(long, global = true, value_name = "FOLDER", default_value = "certs")]
    dir: PathBuf,
    /// Replace files that exist.
    #[arg(long, global = true)]
    force: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an authority: ca.crt for every node and client, and ca.key, to be kept safe.
    #[command(after_help = "Example:\n  dynamomini certs init --dir certs --name shop")]
    Init {
        /// The cluster's name, for people who look at the certificate.
        #[arg(long, default_value = "dynamomini")]
        name: ClusterName,
        /// Days until it expires.
        #[arg(long, default_value_t = 3650)]
        days: u32,
    },
    /// Issue a node's certificate and key.
    #[command(after_help = "Example:\n  dynamomini certs node n1 --host db1.example.org --host 10.0.0.5")]
    Node {
        #[command(flatten)]
        node: NodeArgs,
        #[command(flatten)]
        days: Days,
    },
    /// Issue a client's certificate and key.
    #[command(after_help = GRANT_HELP)]
    Client {
        #[command(flatten)]
        client: ClientArgs,
        #[command(flatten)]
        days: Days,
    },
    /// Issue an administrator's certificate and key: it may do everything.
    #[command(after_help = "Example:\n  dynamomini certs admin alice --days 90")]
    Admin {
        /// The administrator's name.
        name: String,
        #[command(flatten)]
        days: Days,
    },
    /// Make a key and a request for another authority to sign; the key stays here.
    #[command(after_help = REQUEST_HELP)]
    Request {
        #[command(subcommand)]
        subject: Asked,
    },
    /// Sign a request with this folder's authority; look at it with `certs show` first: it gets what it asks for.
    #[command(after_help = "Example:\n  dynamomini certs sign n1.csr --out n1.crt")]
    Sign {
        /// The request.
        file: PathBuf,
        /// The certificate to write; by default beside the request, ending in .crt.
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        days: Days,
    },
    /// Give a certificate new dates; identity, names and key stay.
    #[command(
        after_help = "Example:\n  dynamomini certs renew certs/n1.crt\n\nA running node takes the new file up by itself."
    )]
    Renew {
        /// The certificate, which is replaced.
        file: PathBuf,
        #[command(flatten)]
        days: Days,
    },
    /// Say what files hold: role, grants, hosts, dates, issuer, fingerprints. Of a key, only what is public.
    #[command(after_help = "Example:\n  dynamomini certs show certs/*.crt")]
    Show {
        /// Certificates, requests or keys in PEM form.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Asked {
    /// For a node.
    Node(NodeArgs),
    /// For a client.
    #[command(after_help = GRANT_HELP)]
    Client(ClientArgs),
    /// For an administrator.
    Admin {
        /// The administrator's name.
        name: String,
    },
}

#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// The node's name, as in node.name.
    name: NodeName,
    /// A DNS name or IP address of the node; repeat it for more. For people and other tools: nodes know each other by name.
    #[arg(long = "host", value_name = "DNS|IP")]
    hosts: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct ClientArgs {
    /// The client's name, for logs and error texts.
    name: String,
    /// What it may do; repeat it for more.
    #[arg(long = "grant", value_name = "NAMESPACE:VERBS[:PREFIX]", value_parser = parse_grant)]
    grants: Vec<Grant>,
    /// Let it read, write, delete and scan everything: the same as --grant '*:*'.
    #[arg(long, conflicts_with = "grants")]
    all: bool,
}

#[derive(Debug, Clone, Copy, clap::Args)]
struct Days {
    /// Days until it expires; never later than the authority.
    #[arg(long, default_value_t = 825)]
    days: u32,
}

const GRANT_HELP: &str =
    "A grant is NAMESPACE:VERBS[:PREFIX]. Verbs are get, put, delete and scan, joined by +; * stands for every
namespace or verb; a prefix limits it to the keys that begin so.

Examples:
  dynamomini certs client web --grant orders:get+put --grant 'catalogue:get'
  dynamomini certs client mail --grant 'users:*:mail/'
  dynamomini certs client batch --all";

const REQUEST_HELP: &str = "The authority must keep the URI names of the request:
  dynamomini://node/NAME  dynamomini://client/NAME  dynamomini://admin/NAME
  dynamomini://grant/NAMESPACE-or-*/VERBS-or-*/PERCENT-ENCODED-PREFIX  (clients, one for each grant)
and the extended key usages serverAuth and clientAuth for nodes, clientAuth for others. certs/README.md shows how.

Example:
  dynamomini certs request node n1 --host db1.example.org";

impl NodeArgs {
    fn subject(self) -> Result<Subject, CertsError> {
        Subject::node(self.name, &self.hosts)
    }
}

impl ClientArgs {
    fn subject(self) -> anyhow::Result<Subject> {
        let all = if self.all { vec![parse_grant("*:*")?] } else { Vec::new() };
        Ok(Subject::client(&self.name, [self.grants, all].concat())?)
    }
}

impl Args {
    /// Does what was asked for.
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let place = Place { dir: self.dir, force: self.force };
        match self.what {
            What::Init { name, days } => {
                let made = Authority::create(&context.env, &name, days)?;
                made.save(&place.dir, place.force)?;
                let (cert, key) = (place.dir.join(authority::CA_CERT), place.dir.join(authority::CA_KEY));
                wrote(context, &format!("authority of cluster {name}"), &[&cert, &key])
            }
            What::Node { node, days } => place.issue(context, &node.subject()?, days),
            What::Client { client, days } => place.issue(context, &client.subject()?, days),
            What::Admin { name, days } => place.issue(context, &Subject::admin(&name)?, days),
            What::Request { subject } => place.request(
                context,
                &match subject {
                    Asked::Node(node) => node.subject()?,
                    Asked::Client(client) => client.subject()?,
                    Asked::Admin { name } => Subject::admin(&name)?,
                },
            ),
            What::Sign { file, out, days } => place.sign(context, &file, out, days),
            What::Renew { file, days } => place.renew(context, &file, days),
            What::Show { files } => show(context, &files),
        }
    }
}

/// Where files are, and whether they may be replaced.
struct Place {
    dir: PathBuf,
    force: bool,
}

impl Place {
    fn issue(&self, context: &Context, subject: &Subject, days: Days) -> anyhow::Result<()> {
        let issued = Authority::load(&self.dir)?.issue(&context.env, subject, days.days)?;
        let (cert, key) = self.files(subject, "crt");
        store::write_pair((&cert, &issued.cert_pem), (&key, &issued.key_pem), self.force)?;
        wrote(context, &format!("certificate of {}", subject.identity()), &[&cert, &key])
    }

    fn request(&self, context: &Context, subject: &Subject) -> anyhow::Result<()> {
        let requested = authority::request(subject)?;
        let (csr, key) = self.files(subject, "csr");
        store::write_pair((&csr, &requested.csr_pem), (&key, &requested.key_pem), self.force)?;
        wrote(context, &format!("request of {}", subject.identity()), &[&csr, &key])
    }

    fn sign(&self, context: &Context, file: &Path, out: Option<PathBuf>, days: Days) -> anyhow::Result<()> {
        let authority = Authority::load(&self.dir)?;
        let (identity, cert_pem) = authority.sign_request(&context.env, file, &store::read(file)?, days.days)?;
        let cert = out.unwrap_or_else(|| file.with_extension("crt"));
        store::write_public(&cert, &cert_pem, self.force)?;
        let rights: Vec<String> = identity.uris().into_iter().skip(1).collect();
        wrote(context, &[vec![format!("certificate of {identity}")], rights].concat().join(", "), &[&cert])
    }

    fn renew(&self, context: &Context, file: &Path, days: Days) -> anyhow::Result<()> {
        let authority = Authority::load(&self.dir)?;
        let cert_pem = authority.renew(&context.env, file, &store::read(file)?, days.days)?;
        // Replacing the file is what was asked for; key and identity stay, so nothing is lost by it.
        store::write_public(file, &cert_pem, true)?;
        wrote(context, "renewed certificate", &[file])
    }

    fn files(&self, subject: &Subject, ending: &str) -> (PathBuf, PathBuf) {
        let name = subject.identity().name();
        (self.dir.join(format!("{name}.{ending}")), self.dir.join(format!("{name}.key")))
    }
}

fn wrote(context: &Context, what: &str, files: &[&Path]) -> anyhow::Result<()> {
    let shown: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    context.output.print(&json!({"wrote": what, "files": shown}), |_| format!("wrote {what}: {}", shown.join(", ")))
}

fn show(context: &Context, files: &[PathBuf]) -> anyhow::Result<()> {
    let mut shown = Vec::new();
    let mut text = String::new();
    for file in files {
        let blocks = describe(&store::read(file)?, context.env.wall_ms());
        if blocks.is_empty() {
            let fix = "name a file with a certificate, request or key in PEM form";
            return Err(CertsError::file(file, "holds nothing in PEM form", fix).into());
        }
        for block in blocks {
            text.push_str(&format!("{}: {}", file.display(), describe_text(&block)));
            let mut value = serde_json::to_value(&block)?;
            value["file"] = file.display().to_string().into();
            shown.push(value);
        }
    }
    context.output.print(&json!({"files": shown}), |_| text)
}

fn describe_text(block: &Described) -> String {
    match block {
        Described::Certificate {
            names,
            authority,
            subject,
            issuer,
            not_before,
            not_after,
            days_left,
            fingerprint,
            public_key,
        } => {
            let what = if *authority {
                "certificate of an authority".to_owned()
            } else {
                format!("certificate of {}", who(names))
            };
            let left = if *days_left < 0 { "EXPIRED".to_owned() } else { format!("{days_left} days left") };
            format!(
                "{what}\n{}  subject      {subject}\n  issuer       {issuer}\n  valid        {not_before} to {not_after} ({left})\n  fingerprint  SHA-256 {fingerprint}\n  public key   SHA-256 {public_key}\n",
                names_text(names)
            )
        }
        Described::Request { names, public_key } => {
            format!("request of {}\n{}  public key   SHA-256 {public_key}\n", who(names), names_text(names))
        }
        Described::Key { algorithm, public_key: Some(public_key) } => {
            format!("private key, {algorithm}\n  public key   SHA-256 {public_key}\n")
        }
        Described::Key { algorithm, public_key: None } => format!("private key in the form {algorithm}\n"),
        Described::Unreadable { what } => format!("{what}\n"),
    }
}

fn who(names: &Names) -> String {
    match (&names.role, &names.name) {
        (Some(role), Some(name)) => format!("{role} {name}"),
        _ => "nobody this store knows".to_owned(),
    }
}

fn names_text(names: &Names) -> String {
    let rows = [
        ("grants", names.grants.join(", ")),
        ("hosts", names.hosts.join(", ")),
        ("fault", names.fault.clone().unwrap_or_default()),
    ];
    let given = rows.iter().filter(|(_, text)| !text.is_empty());
    given.fold(String::new(), |all, (name, text)| format!("{all}  {name:12} {text}\n"))
}
