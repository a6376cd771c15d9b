// Appends one row for each HARi event to the first sheet of the spreadsheet that this script belongs to.
// Project Settings > Script properties: SECRET = the webhook's secret.

const COLUMNS = ["id", "timestamp", "event", "record.id", "record.name", "record.stage", "record.amount", "user.name"];

function doPost(e) {
  const event = JSON.parse(e.postData.contents);
  if (event.secret !== PropertiesService.getScriptProperties().getProperty("SECRET")) return answer("wrong secret");
  const lock = LockService.getScriptLock(); // two runs at once would both find the event missing
  lock.waitLock(20000);
  try {
    const sheet = SpreadsheetApp.getActiveSpreadsheet().getSheets()[0];
    if (sheet.getLastRow() === 0) sheet.appendRow(COLUMNS);
    // An attempt whose answer was lost comes again with the same id.
    const known = sheet.getRange("A:A").createTextFinder(event.id).matchEntireCell(true).findNext();
    if (!known) sheet.appendRow(COLUMNS.map((path) => cell(event, path)));
  } finally {
    lock.releaseLock();
  }
  return answer("ok");
}

function cell(event, path) {
  const value = path.split(".").reduce((found, name) => (found == null ? found : found[name]), event);
  if (value == null) return "";
  const plain = typeof value === "object" ? JSON.stringify(value) : value;
  // Text that looks like a formula stays text.
  return typeof plain === "string" && /^[=+\-@]/.test(plain) ? "'" + plain : plain;
}

function answer(text) {
  return ContentService.createTextOutput(text);
}
