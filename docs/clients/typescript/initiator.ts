// Submits one transaction, and sends it again until the coordinator has answered.
import { credentials, loadPackageDefinition, type ServiceError } from "@grpc/grpc-js";
import { loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";
import { getProtoPath } from "google-proto-files";
import { setTimeout as sleep } from "node:timers/promises";
import type { ProtoGrpcType } from "./gen/coordinator";
import type { SubmitTransactionRequest } from "./gen/unanimo/v1/SubmitTransactionRequest";
import type { SubmitTransactionResponse__Output } from "./gen/unanimo/v1/SubmitTransactionResponse";

const [address, gid] = process.argv.slice(2);
const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };

const contract = loadSync("unanimo/v1/coordinator.proto", {
  ...options,
  includeDirs: [`${process.env.UNANIMO}/proto`],
});
const { unanimo } = loadPackageDefinition(contract) as unknown as ProtoGrpcType;
const coordinator = new unanimo.v1.CoordinatorService(address, credentials.createInsecure());

const errors = loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"], {
  ...options,
  includeDirs: [getProtoPath("..")],
});
const decode = (type: string, bytes: Buffer): any =>
  (errors[type] as MessageTypeDefinition<object, object>).deserialize(bytes);

/** Tells whether the coordinator itself has said no, for good. */
function isFinal(error: ServiceError): boolean {
  const [status] = error.metadata.get("grpc-status-details-bin");
  if (!status) return false; // not from the coordinator: nothing is known
  for (const detail of decode("google.rpc.Status", status as Buffer).details) {
    if (!detail.type_url.endsWith("/google.rpc.ErrorInfo")) continue;
    const info = decode("google.rpc.ErrorInfo", detail.value);
    return info.domain === "unanimo" && info.metadata.retryable !== "true";
  }
  return false;
}

function submit(request: SubmitTransactionRequest): Promise<SubmitTransactionResponse__Output> {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + 10_000;
    coordinator.SubmitTransaction(request, { deadline }, (error, response) =>
      error ? reject(error) : resolve(response!),
    );
  });
}

async function main(): Promise<number> {
  const request: SubmitTransactionRequest = {
    gid,
    mode: "MODE_TCC",
    branches: [
      {
        branch_id: "lamps",
        participant: "py-shop",
        action: "reserve",
        payload: {
          data: Buffer.from(JSON.stringify({ item: "lamp", pieces: 2 })),
          media_type: "application/json",
        },
      },
    ],
    include_outputs: true,
  };
  for (let pause = 100; ; pause = Math.min(2 * pause, 5000)) {
    try {
      const result = (await submit(request)).result!;
      if (result.outcome === "OUTCOME_COMMITTED") {
        console.log("committed:", result.branches[0].output?.data.toString());
        return 0;
      }
      if (result.outcome === "OUTCOME_ABORTED") {
        console.log("aborted:", result.abort_cause, result.branches[0].refusal);
        return 4;
      }
      console.error("not decided yet");
    } catch (error) {
      if (isFinal(error as ServiceError)) throw error; // the request is wrong, or the gid names another
      console.error("not known yet:", (error as ServiceError).message);
    }
    await sleep(pause);
  }
}

main().then((code) => process.exit(code));
