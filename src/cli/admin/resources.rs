/// What can be administered.
pub(super) struct Resource {
    pub(super) name: &'static str,
    /// One of them.
    pub(super) item: &'static str,
    pub(super) about: &'static str,
    /// What a deletion does beside removing the row.
    pub(super) deletion: &'static str,
    pub(super) verbs: &'static [&'static Verb],
}

/// What can be done to it.
pub(super) struct Verb {
    pub(super) name: &'static str,
    /// What it does, with `{items}` for the resource and `{item}` for one of it.
    pub(super) about: &'static str,
    pub(super) method: Method,
    /// Whether its name is the last part of the path.
    pub(super) in_path: bool,
    pub(super) id: Id,
    pub(super) takes_fields: bool,
    pub(super) options: &'static [Choice],
}

impl Verb {
    /// Its path with `{}` for an ID, of a new one where that is optional.
    pub(super) fn template(&self, resource: &Resource) -> String {
        let id = (self.id == Id::Required).then_some("{}");
        let verb = self.in_path.then_some(self.name);
        [Some(resource.name), id, verb].into_iter().flatten().collect::<Vec<_>>().join("/")
    }
}

/// How the API is asked.
#[derive(Clone, Copy)]
pub(super) enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

/// Whether a verb is about one of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Id {
    None,
    Optional,
    Required,
}

/// An option that some verbs have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    All,
    Yes,
    Now,
    Wait,
}

/// A verb of every resource, from which the others differ.
const VERB: Verb = Verb {
    name: "",
    about: "",
    method: Method::Post,
    in_path: true,
    id: Id::Required,
    takes_fields: true,
    options: &[],
};

const LIST: Verb = Verb {
    name: "list",
    about: "List {items}",
    method: Method::Get,
    in_path: false,
    id: Id::None,
    options: &[Choice::All],
    ..VERB
};
const GET: Verb =
    Verb { name: "get", about: "Show {item}", method: Method::Get, in_path: false, takes_fields: false, ..VERB };
const CREATE: Verb = Verb { name: "create", about: "Create {item}", in_path: false, id: Id::None, ..VERB };
const UPDATE: Verb = Verb {
    name: "update",
    about: "Change {item}: the fields that are named; an empty value clears a field",
    method: Method::Patch,
    in_path: false,
    ..VERB
};
const DELETE: Verb = Verb {
    name: "delete",
    about: "Delete {item}; asks first on a terminal",
    method: Method::Delete,
    in_path: false,
    takes_fields: false,
    options: &[Choice::Yes],
    ..VERB
};
const KILL: Verb = Verb { about: "End {item} at once; asks first on a terminal", ..DELETE };
const CREATE_NODE: Verb = Verb { options: &[Choice::Wait], ..CREATE };

/// All resources, in the order in which they are shown.
pub(super) static RESOURCES: [Resource; 11] = [
    Resource {
        name: "users",
        item: "user",
        about: "Customers",
        deletion: "Devices, codes, subscriptions and their usage are deleted with it, and their sessions end.",
        verbs: &[&LIST, &GET, &CREATE, &UPDATE, &DELETE],
    },
    Resource {
        name: "devices",
        item: "device",
        about: "Customers' devices; why one has no traffic",
        deletion: "Its sessions end.",
        verbs: &[
            &LIST,
            &GET,
            &CREATE,
            &UPDATE,
            &DELETE,
            &Verb { name: "token", about: "Issue another access token", takes_fields: false, ..VERB },
            &Verb {
                name: "why",
                about: "Explain why it has no traffic, and what to do",
                method: Method::Get,
                takes_fields: false,
                ..VERB
            },
        ],
    },
    Resource {
        name: "codes",
        item: "activation code",
        about: "Activation codes, each of which makes one device",
        deletion: "A device that it has made stays.",
        verbs: &[&LIST, &GET, &CREATE, &DELETE],
    },
    Resource {
        name: "plans",
        item: "plan",
        about: "What subscriptions allow: devices, sessions, traffic, rate, regions",
        deletion: "",
        verbs: &[&LIST, &GET, &CREATE, &UPDATE, &DELETE],
    },
    Resource {
        name: "subscriptions",
        item: "subscription",
        about: "Which user has which plan, and until when",
        deletion: "Its usage and payments are deleted with it; sessions end unless the user has another one that serves.",
        verbs: &[
            &LIST,
            &GET,
            &CREATE,
            &UPDATE,
            &DELETE,
            &Verb { name: "renew", about: "Prolong it: days=N payment_id=P", ..VERB },
            &Verb { name: "top-up", about: "Add traffic to its period: gb=N payment_id=P", ..VERB },
            &Verb { name: "change-plan", about: "Give it another plan: plan_id=ID [dry_run=true]", ..VERB },
            &Verb { name: "cancel", about: "End it now", takes_fields: false, ..VERB },
        ],
    },
    Resource {
        name: "regions",
        item: "region",
        about: "Exit regions, as clients name them",
        deletion: "It is taken out of all lists of exit regions.",
        verbs: &[&LIST, &GET, &CREATE, &UPDATE, &DELETE],
    },
    Resource {
        name: "nodes",
        item: "node",
        about: "Shadowsocks servers, through which gateways reach the internet",
        deletion: "Gateways stop using it at once.",
        verbs: &[
            &LIST,
            &GET,
            &CREATE_NODE,
            &UPDATE,
            &DELETE,
            &Verb {
                name: "import",
                about: "Create nodes of a file with an access key a line: region=CODE file=PATH",
                id: Id::None,
                ..VERB
            },
            &Verb {
                name: "health",
                about: "Show each gateway's view of it",
                method: Method::Get,
                takes_fields: false,
                ..VERB
            },
            &Verb {
                name: "password",
                about: "Give it another password: password=P; the old one stays good until --now",
                options: &[Choice::Now],
                ..VERB
            },
        ],
    },
    Resource {
        name: "gateways",
        item: "gateway",
        about: "Gateways, which clients connect to",
        deletion: "Its endpoints are deleted with it, and its sessions end.",
        verbs: &[
            &LIST,
            &GET,
            &CREATE,
            &UPDATE,
            &DELETE,
            &Verb {
                name: "invite",
                about: "Make a one-time token for a new gateway (name=N region=CODE) or a known one (ID)",
                id: Id::Optional,
                ..VERB
            },
            &Verb {
                name: "token",
                about: "Issue another token; the old one works until that is used, or with --now no longer",
                takes_fields: false,
                options: &[Choice::Now],
                ..VERB
            },
            &Verb { name: "revoke", about: "Shut it out until it is invited again", takes_fields: false, ..VERB },
        ],
    },
    Resource {
        name: "endpoints",
        item: "endpoint",
        about: "Where clients reach gateways",
        deletion: "Apps are told of it no longer.",
        verbs: &[&LIST, &GET, &CREATE, &UPDATE, &DELETE],
    },
    Resource {
        name: "sessions",
        item: "session",
        about: "Clients' sessions and what they have moved",
        deletion: "It ends at once; its row and its usage stay.",
        verbs: &[&LIST, &GET, &KILL],
    },
    Resource {
        name: "refusals",
        item: "refusal",
        about: "Hellos that were refused, by support id: support_id=ID",
        deletion: "",
        verbs: &[&LIST],
    },
];
