// What the page shows.
const text = (at, css) => at.querySelector(css)?.textContent ?? "";
return {
    key: text(document, "#key"),
    verdict: text(document, "#verdict"),
    reachable: !document.querySelector("#away").checkVisibility(),
    ledger: [...document.querySelectorAll("#ledger tr:not(.none) td:first-child")].map((cell) => cell.textContent),
    total: text(document, "#total"),
    sent: [...document.querySelectorAll("#requests > li")].map((entry) => ({
        number: Number(entry.dataset.number),
        status: text(entry, ".status"),
        replayed: entry.querySelector(".replayed") !== null,
        key: text(entry, ".sent-key").replace("key ", ""),
        note: text(entry, ".note"),
        body: text(entry, ".body"),
    })),
};
